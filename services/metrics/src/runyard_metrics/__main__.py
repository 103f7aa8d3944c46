"""``python -m runyard_metrics``."""

import sys

from runyard_metrics.main import main
from runyard_metrics.settings import MetricsSettings
from runyard_servicekit.lifecycle import run_service

sys.exit(run_service("metrics", MetricsSettings, main))
