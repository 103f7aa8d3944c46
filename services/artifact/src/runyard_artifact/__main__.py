"""``python -m runyard_artifact``."""

from __future__ import annotations

import sys

from runyard_artifact.main import main
from runyard_artifact.settings import ArtifactSettings
from runyard_servicekit.lifecycle import run_service

sys.exit(run_service("artifact", ArtifactSettings, main))
