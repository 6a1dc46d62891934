"""The result store: verdicts and reviews in SQLite or PostgreSQL, append-only. Imports no torch."""
