"""Secrets of projects, outside of the log."""

from pathlib import Path

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    """Run the file; statements are separated by lines of three dashes."""
    for statement in (_SQL / "0004_secrets.sql").read_text(encoding="utf-8").split("\n---\n"):
        op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Refuse: a log is never taken back.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("the log is append-only; restore a backup instead")
