"""The environment of a process, and what the record keeps of any environment."""

from runyard_agent.environment.image_probe import SCRIPT as IMAGE_PROBE_SCRIPT
from runyard_agent.environment.image_probe import read_image
from runyard_agent.environment.prepare import EnvironmentRequest, PreparedEnvironment, capture, prepare
from runyard_agent.environment.record import PROBE_SOURCE, read_probe, recorded_variables
from runyard_agent.environment.system_packages import MachinePackages

__all__ = [
    "IMAGE_PROBE_SCRIPT",
    "PROBE_SOURCE",
    "EnvironmentRequest",
    "MachinePackages",
    "PreparedEnvironment",
    "capture",
    "prepare",
    "read_image",
    "read_probe",
    "recorded_variables",
]
