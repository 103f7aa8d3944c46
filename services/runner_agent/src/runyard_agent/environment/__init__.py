"""The environment of a process, and what the record keeps of any environment."""

from runyard_agent.environment.prepare import EnvironmentRequest, PreparedEnvironment, capture, prepare
from runyard_agent.environment.record import PROBE_SOURCE, read_probe, recorded_variables

__all__ = [
    "PROBE_SOURCE",
    "EnvironmentRequest",
    "PreparedEnvironment",
    "capture",
    "prepare",
    "read_probe",
    "recorded_variables",
]
