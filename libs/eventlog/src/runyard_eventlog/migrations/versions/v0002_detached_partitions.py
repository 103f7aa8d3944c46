"""Partitions that are sealed and verified may be detached."""

from runyard_eventlog.migrations.steps import refuse_downgrade, run_files

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

downgrade = refuse_downgrade


def upgrade() -> None:
    """Bring the database to this revision."""
    run_files("0002_detached_partitions.sql")
