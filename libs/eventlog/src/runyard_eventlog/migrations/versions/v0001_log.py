"""The log: tables, the append function, and what each role may do."""

from runyard_eventlog.migrations.steps import refuse_downgrade, run_files

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

downgrade = refuse_downgrade


def upgrade() -> None:
    """Bring the database to this revision."""
    run_files("0001_tables.sql", "0001_append.sql", "0001_grants.sql")
