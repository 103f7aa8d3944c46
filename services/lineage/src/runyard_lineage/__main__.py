"""``python -m runyard_lineage``."""

import sys

from runyard_lineage.main import main
from runyard_lineage.settings import LineageSettings
from runyard_servicekit.lifecycle import run_service

sys.exit(run_service("lineage", LineageSettings, main))
