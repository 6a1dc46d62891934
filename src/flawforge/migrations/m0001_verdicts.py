"""Verdicts, reviews and prunings, and the triggers that keep them append-only."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import JSONB

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
LIST = sa.JSON().with_variant(JSONB(), "postgresql")
TIME = sa.DateTime(timezone=True)

# A deletion is allowed in the transaction of a pruning alone: its row is not done before that transaction ends.
PRUNING = "EXISTS (SELECT 1 FROM prunings WHERE NOT done)"
REFUSED = "{table} are append-only; add a review instead, or delete old ones with: flawforge results prune"

SQLITE = """
CREATE TRIGGER {table}_no_update BEFORE UPDATE ON {table}
BEGIN SELECT RAISE(ABORT, '{refused}'); END;
CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table}
WHEN EXISTS (SELECT 1 FROM {table} WHERE id = NEW.id)
BEGIN SELECT RAISE(ABORT, '{refused}'); END;
CREATE TRIGGER {table}_no_delete BEFORE DELETE ON {table} WHEN NOT {pruning}
BEGIN SELECT RAISE(ABORT, '{refused}'); END;
"""
POSTGRESQL = """
CREATE FUNCTION {table}_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' AND {pruning} THEN RETURN OLD; END IF;
  RAISE EXCEPTION '{refused}';
END $$;
CREATE TRIGGER {table}_no_change BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION {table}_append_only();
CREATE TRIGGER {table}_no_truncate BEFORE TRUNCATE ON {table}
FOR EACH STATEMENT EXECUTE FUNCTION {table}_append_only();
"""


def append_only(table: str, refused: str = REFUSED) -> None:
    """Triggers that refuse to change rows of a table, and to delete them outside of a pruning; `refused` says what to do."""
    form = SQLITE if op.get_bind().dialect.name == "sqlite" else POSTGRESQL
    text = form.format(table=table, refused=refused.format(table=table), pruning=PRUNING)
    for statement in text.split("\nCREATE ")[1:]:
        op.execute(f"CREATE {statement.strip()}")


def upgrade() -> None:
    """Make the tables and their triggers."""
    op.create_table(
        "verdicts",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("time", TIME, nullable=False),
        *[sa.Column(name, sa.Text, nullable=False) for name in ("source", "station", "part_id", "picture", "sha256")],
        *[sa.Column(name, sa.Integer, nullable=False) for name in ("height", "width")],
        *[sa.Column(name, sa.Text, nullable=False) for name in ("model", "model_id", "manifest")],
        sa.Column("score", sa.Double, nullable=False),
        sa.Column("score_normalised", sa.Double),
        sa.Column("p_value", sa.Double, nullable=False),
        sa.Column("threshold", sa.Double, nullable=False),
        sa.Column("review_threshold", sa.Double),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("valid", sa.Boolean, nullable=False),
        sa.Column("notes", LIST, nullable=False),
        sa.Column("regions", LIST, nullable=False),
        sa.Column("kept", sa.Text, nullable=False),
        sa.Column("overlay", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("seconds", sa.Double, nullable=False),
        sa.Column("sampled", sa.Boolean, nullable=False),
        sa.Column("key", sa.Text, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_index("verdicts_time", "verdicts", ["time"])
    op.create_index("verdicts_part_id", "verdicts", ["part_id"])
    op.create_index("verdicts_sha256", "verdicts", ["sha256"])
    op.create_index("verdicts_verdict", "verdicts", ["verdict", "id"])
    op.create_table(
        "reviews",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("verdict_id", KEY, sa.ForeignKey("verdicts.id"), nullable=False),
        sa.Column("time", TIME, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("verdict", sa.Text, nullable=False),
        sa.Column("boxes", LIST, nullable=False),
        sa.Column("mask", sa.LargeBinary),
        sa.Column("note", sa.Text, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("reviews_verdict_id", "reviews", ["verdict_id", "id"])
    op.create_table(
        "prunings",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("time", TIME, nullable=False),
        sa.Column("who", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("verdicts", sa.Integer, nullable=False),
        sa.Column("reviews", sa.Integer, nullable=False),
        sa.Column("done", sa.Boolean, nullable=False),
        sqlite_autoincrement=True,
    )
    append_only("verdicts")
    append_only("reviews")


def downgrade() -> None:
    """Not possible: it would delete every verdict."""
    raise NotImplementedError("The first migration cannot be undone; restore a backup.")
