"""Rendered sample parts."""
