"""Rendered sample parts and real-looking damage on them."""
