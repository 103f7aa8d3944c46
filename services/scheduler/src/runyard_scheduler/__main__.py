"""``python -m runyard_scheduler``: the scheduler's process."""

from __future__ import annotations

from runyard_scheduler.main import main
from runyard_scheduler.settings import SchedulerSettings
from runyard_servicekit.lifecycle import run_service

raise SystemExit(run_service("scheduler", SchedulerSettings, main))
