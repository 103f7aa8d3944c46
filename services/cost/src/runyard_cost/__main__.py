"""``python -m runyard_cost``."""

from __future__ import annotations

import sys

from runyard_cost.main import main
from runyard_cost.settings import CostSettings
from runyard_servicekit.lifecycle import run_service

sys.exit(run_service("cost", CostSettings, main))
