"""Two records beside each other: what differs in each of the ten boxes. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from runyard.metric.v1.metric_service_pb2 import MetricLatest, Statistic
from runyard.record.v1.record_service_pb2 import Record
from runyard.run.v1.types_pb2 import CauseCode, Environment, Executor, Hardware
from runyard_cli.run_outputs import newest_outputs
from runyard_cli.words import money_words, number_words, points_words, size_words, state_word, value_words

CODE, PARAMETERS, DATASET, HARDWARE, ENVIRONMENT = (
    "training code",
    "parameters",
    "dataset",
    "used hardware",
    "environment",
)
COST, MODEL, LOGS, RESULTS, STATISTICS = "experiment cost", "model", "logs", "results", "statistics"
BOXES = (CODE, PARAMETERS, DATASET, HARDWARE, ENVIRONMENT, COST, MODEL, LOGS, RESULTS, STATISTICS)
"""In the order of the record."""
END = "end"
"""How the runs ended: no box of its own."""

Facts = Iterator[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two runs do not have in common."""

    box: str
    """Of ``BOXES``, or ``END``."""
    name: str
    """What it is, within its box."""
    first: str
    """How the first run has it, hashes whole; empty when it does not."""
    second: str
    """How the second one has it."""


@dataclass(frozen=True, slots=True)
class Compared:
    """A record with the files of its code: path to SHA-256."""

    record: Record
    code_files: Mapping[str, str]


def differences(first: Compared, second: Compared) -> list[Difference]:
    """Give what differs, box by box."""
    ones, others = _facts(first), _facts(second)
    return [
        Difference(box, name, one.get(name, ""), others[box].get(name, ""))
        for box, one in ones.items()
        for name in dict.fromkeys((*one, *others[box]))
        if one.get(name) != others[box].get(name)
    ]


def output_paths(record: Record) -> dict[str, str]:
    """Give the outputs of a run: path to SHA-256, of each path what is left of it."""
    return {each.path: each.sha256 for each in newest_outputs(record.run.run_id, record.outputs)}


def _facts(of: Compared) -> dict[str, dict[str, str]]:
    record = of.record
    boxes: dict[str, Facts] = {
        END: _end(record),
        CODE: _code(of),
        PARAMETERS: _parameters(record),
        DATASET: (
            (f"{each.name}/{file.path}", _digest(file.sha256))
            for each in record.datasets
            for file in each.files
        ),
        HARDWARE: _hardware(record.hardware),
        ENVIRONMENT: _environment(record),
        COST: iter([("cost", money_words(record.cost.micro_usd))]),
        MODEL: _outputs(record),
        LOGS: iter([("lines", f"{record.logs.line_count:,}")]),
        RESULTS: ((metric.name, _exact(metric)) for metric in record.results),
        STATISTICS: (
            (" ".join(filter(None, (each.name, each.gpu_uuid))), _mean(each)) for each in record.statistics
        ),
    }
    return {box: dict(facts) for box, facts in boxes.items()}


def _digest(sha256: str) -> str:
    return f"SHA-256 {sha256}" if sha256 else ""


def _end(record: Record) -> Facts:
    yield "state", state_word(record.run)[0]
    code = record.run.cause.code
    if code != CauseCode.CAUSE_CODE_UNSPECIFIED:
        yield "cause", CauseCode.Name(code).removeprefix("CAUSE_CODE_")


def _code(of: Compared) -> Facts:
    code = of.record.code
    changed = " with uncommitted changes" if code.dirty else ""
    yield "commit", code.git_commit + changed
    yield "tree", code.tree_sha256
    for path, sha256 in of.code_files.items():
        yield path, _digest(sha256)


def _parameters(record: Record) -> Facts:
    for each in record.parameters:
        yield each.name, value_words(each.value)
    yield "step", record.run.spec.step
    for number, line in enumerate(record.run.spec.command_lines, start=1):
        yield f"command line {number}", line


def _hardware(hardware: Hardware) -> Facts:
    yield "node", hardware.node_id
    yield "CPUs", f"{hardware.cpu_count} x {hardware.cpu_model}" if hardware.cpu_count else ""
    yield "memory", size_words(hardware.memory_bytes) if hardware.memory_bytes else ""
    yield "GPUs", ", ".join(f"{gpu.model} {gpu.uuid}" for gpu in hardware.gpus)
    yield "driver", hardware.gpu_driver_version


def _environment(record: Record) -> Facts:
    environment: Environment = record.environment
    yield "executor", Executor.Name(environment.executor).removeprefix("EXECUTOR_").lower()
    yield "image", environment.image_id
    yield "interpreter", environment.interpreter
    yield "requirements", _digest(environment.requirements_sha256)
    for package in environment.packages:
        yield f"package {package.name}", package.version
    yield "packages of the system", _digest(environment.system_packages_sha256)
    yield "system", environment.os
    yield "kernel", environment.kernel
    yield "CUDA", environment.cuda_version
    yield "NCCL", environment.nccl_version
    for variable in record.run.spec.environment_variables:
        yield f"variable {variable.name}", variable.value


def _outputs(record: Record) -> Facts:
    for each in newest_outputs(record.run.run_id, record.outputs):
        yield each.path, f"{size_words(each.size_bytes)}, {_digest(each.sha256)}"


def _mean(statistic: Statistic) -> str:
    is_bytes = "_bytes" in statistic.name
    return f"mean {size_words(round(statistic.mean)) if is_bytes else number_words(statistic.mean)}"


def _exact(metric: MetricLatest) -> str:
    # All digits: a result that differs in the last one is not reproduced.
    return f"{metric.json_value or repr(metric.value)} ({points_words(metric, repr)})"
