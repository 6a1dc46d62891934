"""Pictures that could not be judged are kept beside the verdicts, as append-only as they are."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from flawforge.migrations.m0001_verdicts import KEY, TIME, append_only

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add the table and its triggers, and count its rows in prunings."""
    op.create_table(
        "not_judged",
        sa.Column("id", KEY, primary_key=True, autoincrement=True),
        sa.Column("time", TIME, nullable=False),
        *[
            sa.Column(name, sa.Text, nullable=False)
            for name in ("source", "station", "part_id", "picture", "sha256", "model", "reason")
        ],
        sa.Column("key", sa.Text, unique=True),
        sqlite_autoincrement=True,
    )
    op.create_index("not_judged_time", "not_judged", ["time"])
    op.create_index("not_judged_part_id", "not_judged", ["part_id"])
    op.add_column("prunings", sa.Column("not_judged", sa.Integer, nullable=False, server_default="0"))
    append_only("not_judged", "{table} is append-only; delete old rows with: flawforge results prune")


def downgrade() -> None:
    """Not possible: it would delete rows."""
    raise NotImplementedError("The second migration cannot be undone; restore a backup.")
