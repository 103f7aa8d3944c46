"""The log: tables, the append function, and what each role may do."""

from pathlib import Path

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_SQL = Path(__file__).parent.parent / "sql"


def upgrade() -> None:
    """Run the files in order; statements are separated by lines of three dashes."""
    for name in ("0001_tables.sql", "0001_append.sql", "0001_grants.sql"):
        for statement in (_SQL / name).read_text(encoding="utf-8").split("\n---\n"):
            op.get_bind().exec_driver_sql(statement)


def downgrade() -> None:
    """Refuse: a log is never taken back.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("the log is append-only; restore a backup instead")
