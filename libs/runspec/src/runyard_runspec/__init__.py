"""From a ``valohai.yaml`` to the specification of a run. The only importer of ``valohai-yaml``."""

from runyard_runspec.config import CONFIG_NAMES, Config, Step, find_config, parse_config, read_config
from runyard_runspec.inputs import InputDefinition
from runyard_runspec.lint import Finding, Severity, lint_text
from runyard_runspec.parameters import Parameter, ParameterType, Value
from runyard_runspec.spec import RunOptions, build_run_spec

__all__ = [
    "CONFIG_NAMES",
    "Config",
    "Finding",
    "InputDefinition",
    "Parameter",
    "ParameterType",
    "RunOptions",
    "Severity",
    "Step",
    "Value",
    "build_run_spec",
    "find_config",
    "lint_text",
    "parse_config",
    "read_config",
]
