"""The service: judge over HTTP, keep every verdict. Imports no torch."""
