"""What every revision of the log does, and none does."""

from pathlib import Path
from typing import NoReturn

from alembic import op

_SQL = Path(__file__).parent / "sql"


def run_files(*names: str) -> None:
    """Run SQL files in order; statements are separated by lines of three dashes."""
    for name in names:
        for statement in (_SQL / name).read_text(encoding="utf-8").split("\n---\n"):
            op.get_bind().exec_driver_sql(statement)


def refuse_downgrade() -> NoReturn:
    """Refuse: a log is never taken back.

    Raises:
        NotImplementedError: always.
    """
    raise NotImplementedError("the log is append-only; restore a backup instead")
