"""The store's schema, one Alembic migration per file; `flawforge.store.opening` runs them in order."""
