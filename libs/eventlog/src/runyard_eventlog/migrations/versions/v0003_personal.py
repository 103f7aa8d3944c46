"""Keys of persons, outside of the log."""

from runyard_eventlog.migrations.steps import refuse_downgrade, run_files

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

downgrade = refuse_downgrade


def upgrade() -> None:
    """Bring the database to this revision."""
    run_files("0003_personal.sql")
