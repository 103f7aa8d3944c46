"""``runyard show RUN``: the ten boxes of a run's record."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import click

from runyard.record.v1.record_service_pb2 import GetRecordRequest, GetRecordResponse, Record
from runyard.run.v1.types_pb2 import CodeRef, Environment, Executor, Hardware, Input, InputFile, Run
from runyard_cli.examples import examples
from runyard_cli.follow import metric_words
from runyard_cli.gpu_words import incident_lines, statistic_lines
from runyard_cli.names import full_run_name, project_option
from runyard_cli.output import Style, is_json, output_option, safe, say, say_json, styled
from runyard_cli.run_outputs import newest_outputs
from runyard_cli.session import converse
from runyard_cli.stored_lists import fetch_listed, system_packages
from runyard_cli.words import (
    cause_words,
    duration_words,
    money_words,
    number_words,
    points_words,
    run_name,
    run_seconds,
    size_words,
    state_word,
    time_words,
    value_words,
)
from runyard_client import Client
from runyard_contracts.hands_on_words import end_text, what_text
from runyard_core.counted import count_words

_LABEL_COLUMNS = 20
_SHORT_DIGITS = 16
_PACKAGES_SHOWN = 6
_LOG_LINES_SHOWN = 5
_SESSIONS_SHOWN = 5
_FILES_SHOWN = 20


@click.command("show", epilog=examples("show latest", "show 3 --all", "show digits#2 --output json"))
@click.argument("run")
@project_option
@click.option("--all", "whole", is_flag=True, help="Cut nothing: every package, whole hashes.")
@output_option
def command(run: str, project: str | None, whole: bool) -> None:
    """Show the record of RUN: its ten boxes, each filled from events."""
    request = GetRecordRequest(name=full_run_name(run, project))

    async def ask(client: Client) -> tuple[GetRecordResponse, Sequence[str]]:
        answer = await client.records.GetRecord(request)
        if not whole or is_json():
            return answer, ()
        await fetch_listed(client, answer.record.datasets)
        return answer, await system_packages(client, answer.record.environment)

    answer, of_system = converse(ask)
    if is_json():
        say_json(answer)
        return
    for line in record_lines(answer.record, whole=whole, now=time.time(), system_packages=of_system):
        say(line)


def record_lines(
    record: Record, *, whole: bool, now: float, system_packages: Sequence[str] = ()
) -> Iterator[str]:
    """Write a record for people; ``now`` in seconds since 1970."""
    yield from _heading(record, now)
    boxes = (
        ("training code", _code(record.code, whole)),
        ("parameters", [f"{each.name} = {value_words(each.value)}" for each in record.parameters]),
        ("dataset", list(_datasets(record.datasets, whole))),
        ("used hardware", [*_hardware(record.hardware), *incident_lines(record.gpu_incidents)]),
        ("environment", list(_environment(record.environment, whole, system_packages))),
        ("experiment cost", list(_cost(record))),
        ("model", list(_outputs(record, whole))),
        ("logs", list(_logs(record))),
        ("results", list(_results(record))),
        ("statistics", list(_statistics(record))),
    )
    for number, (name, lines) in enumerate(boxes, start=1):
        yield ""
        label = styled(f"{number:>2} {name:<{_LABEL_COLUMNS - 3}}", Style.BOLD)
        for index, line in enumerate(lines or ["none"]):
            yield (label if index == 0 else " " * _LABEL_COLUMNS) + safe(line)
    for missing in record.missing:
        yield ""
        yield styled(f"incomplete: {safe(missing)}", Style.BUSY)


def _heading(record: Record, now: float) -> Iterator[str]:
    run = record.run
    word, style = state_word(run)
    seconds = run_seconds(run, now)
    lasted = (
        f" after {duration_words(seconds)}" if seconds is not None and run.HasField("finished_at") else ""
    )
    yield f"{styled(run_name(run), Style.BOLD)} {safe(run.spec.step)} {styled(word, style)}{lasted}"
    cause = cause_words(run.cause)
    if cause:
        yield safe(cause)
    if run.waiting_reason:
        yield safe(f"waits: {run.waiting_reason}")
    if run.title:
        yield safe(run.title)
    if run.status_detail:
        yield safe(f"status: {run.status_detail}")
    attempts = ""
    if len(run.attempts) > 1:
        most = f" of at most {run.spec.attempts_max}" if run.spec.attempts_max else ""
        attempts = f", attempt {len(run.attempts)}{most}"
    tags = f", tags {', '.join(run.tags)}" if run.tags else ""
    yield safe(f"queued {time_words(run.queued_at)} by {run.submitted_by}{attempts}{tags}")
    yield f"run id {run.run_id}"
    yield from _hands_on(run)


def _hands_on(run: Run) -> Iterator[str]:
    """Say who had hands on the run: the newest sessions."""
    sessions = run.hands_on_sessions
    if sessions:
        shown = sessions[-_SESSIONS_SHOWN:]
        newest = f", the newest {len(shown)}:" if len(sessions) > len(shown) else ":"
        yield f"hands on {count_words(len(sessions), 'time')}{newest}"
    for each in sessions[-_SESSIONS_SHOWN:]:
        what = what_text(each.command, each.port, terminal=each.terminal)
        end = "open"
        if each.HasField("ended_at"):
            status = each.exit_status if each.HasField("exit_status") else None
            end = end_text(each.end_reason, status, each.detail)
        yield safe(f"  {time_words(each.opened_at)} {each.opened_by}: {what}, attempt {each.attempt}, {end}")


def _short(digest: str, whole: bool) -> str:
    return digest if whole else digest[:_SHORT_DIGITS]


def _code(code: CodeRef, whole: bool) -> Sequence[str]:
    if not code.tree_sha256:
        return []
    lines = []
    if code.git_commit:
        branch = f" ({code.git_branch})" if code.git_branch else ""
        changes = ", with uncommitted changes" if code.dirty else ""
        lines.append(f"commit {code.git_commit if whole else code.git_commit[:12]}{branch}{changes}")
        if code.git_author:
            lines.append(f"by {code.git_author}")
        if code.git_remote_url:
            lines.append(code.git_remote_url)
    else:
        lines.append("nothing committed" if code.dirty else "not in git")
    files = f"{count_words(code.file_count, 'file')}, {size_words(code.size_bytes)}"
    lines.append(f"tree {_short(code.tree_sha256, whole)}, {files}")
    if code.patch_sha256:
        lines.append(f"patch SHA-256 {_short(code.patch_sha256, whole)}")
    return lines


def _datasets(inputs: Sequence[Input], whole: bool) -> Iterator[str]:
    files_left = _FILES_SHOWN
    for each in inputs:
        if not each.files:
            yield f"{each.name}: {', '.join(each.uris) or 'empty'}"
        for file in each.files if whole else each.files[:files_left]:
            digest = _short(file.sha256, whole)
            yield f"{each.name}: {file.path}, {size_words(file.size_bytes)}, SHA-256 {digest}{_moved(file)}"
            if file.uri and not file.uri.endswith(file.sha256):
                yield f"  from {file.uri}" + (f", then {file.resolved_uri}" if file.resolved_uri else "")
        count = each.file_list.file_count or len(each.files)
        hidden = count - (len(each.files) if whole else min(files_left, len(each.files)))
        if hidden > 0:
            yield f"{each.name}: {count_words(hidden, 'more file')} (--all)"
        files_left = max(0, files_left - len(each.files))


def _moved(file: InputFile) -> str:
    """Say whether the node had a file; nothing of one of which nobody knows."""
    if not file.HasField("moved_bytes") or not file.size_bytes:
        return ""
    return ", moved" if file.moved_bytes else ", in the node's cache"


def _hardware(hardware: Hardware) -> Iterator[str]:
    if not hardware.node_id:
        return
    host = f" ({hardware.hostname})" if hardware.hostname not in {"", hardware.node_id} else ""
    yield f"node {hardware.node_id}{host}"
    yield f"{hardware.cpu_count} x {hardware.cpu_model or 'CPU'}, {size_words(hardware.memory_bytes)} memory"
    for gpu in hardware.gpus:
        yield f"{gpu.model}, {size_words(gpu.memory_bytes)}, {gpu.uuid}"
    if hardware.gpu_driver_version:
        cuda = f", CUDA up to {hardware.cuda_driver_version}" if hardware.cuda_driver_version else ""
        yield f"driver {hardware.gpu_driver_version}{cuda}"


def _environment(environment: Environment, whole: bool, system_packages: Sequence[str]) -> Iterator[str]:
    if environment.executor == Executor.EXECUTOR_DOCKER:
        yield f"container {environment.image}{', there already' * environment.cached}"
        yield f"image {environment.image_id}"
        yield from environment.image_repo_digests
        if environment.interpreter:
            yield environment.interpreter
    elif environment.executor == Executor.EXECUTOR_PROCESS:
        cached = " (cached)" if environment.cached else ""
        yield f"process, {environment.interpreter}{cached}"
    else:
        return
    if environment.requirements_sha256:
        yield f"requirements SHA-256 {_short(environment.requirements_sha256, whole)}"
    packages = [f"{each.name} {each.version}" for each in environment.packages]
    if whole:
        yield from packages
    elif packages:
        more = len(packages) - _PACKAGES_SHOWN
        yield ", ".join(packages[:_PACKAGES_SHOWN]) + (f", and {more} more (--all)" if more > 0 else "")
    if environment.system_packages_sha256:
        digest = _short(environment.system_packages_sha256, whole)
        count = count_words(environment.system_package_count, "package")
        yield f"{count} of the system, list SHA-256 {digest}"
        yield from system_packages
    system = " ".join(part for part in (environment.os, environment.kernel) if part)
    cuda = f", CUDA {environment.cuda_version}" if environment.cuda_version else ""
    nccl = f", NCCL {environment.nccl_version}" if environment.nccl_version else ""
    if system:
        yield system + cuda + nccl
    yield from _mounts(environment, whole)


def _mounts(environment: Environment, whole: bool) -> Iterator[str]:
    for each in environment.mounts:
        mark = f", fingerprint {_short(each.fingerprint, whole)}" if each.fingerprint else ""
        files = f"{count_words(each.file_count, 'file')}, {size_words(each.size_bytes)}"
        yield f"mounted {each.source} at {each.destination}: {each.file_system} {each.device}, {files}{mark}"


def _cost(record: Record) -> Iterator[str]:
    cost = record.cost
    if not record.HasField("cost"):
        return
    yield money_words(cost.micro_usd) + (" and time without a price" if cost.has_unpriced_time else "")
    if cost.left_out_term_count:
        yield f"  {count_words(cost.left_out_term_count, 'earlier term')}, too many for one answer"
    for term in cost.terms:
        yield f"  {term.explanation}"


def _outputs(record: Record, whole: bool) -> Iterator[str]:
    newest = newest_outputs(record.run.run_id, record.outputs)
    for each in newest if whole else newest[:_FILES_SHOWN]:
        versions = f", the newest of {each.version_count} versions" if each.version_count > 1 else ""
        uri = f"datum://{_short(each.sha256, whole)}"
        yield f"{each.path}, {size_words(each.size_bytes)}, {uri}{versions}"
    if len(newest) > _FILES_SHOWN and not whole:
        yield f"and {len(newest) - _FILES_SHOWN:,} more (--all, or `runyard outputs`)"
    for attempt in record.run.attempts:
        if attempt.HasField("output_list"):
            listed = attempt.output_list
            files = f"{count_words(listed.file_count, 'file')}, {size_words(listed.size_bytes)}"
            digest = f"list SHA-256 {_short(listed.sha256, whole)}"
            yield f"attempt {attempt.number}: {files}, {digest if listed.sha256 else 'no list of them'}"


def _logs(record: Record) -> Iterator[str]:
    logs = record.logs
    if not logs.line_count:
        return
    yield f"{count_words(logs.line_count, 'line')}, {size_words(logs.size_bytes)}"
    for line in logs.last_lines[-_LOG_LINES_SHOWN:]:
        yield f"  {line.text}"


def _results(record: Record) -> Iterator[str]:
    for metric in record.results:
        yield f"{metric.name} = {metric_words(metric)}  ({points_words(metric, number_words)})"


def _statistics(record: Record) -> Iterator[str]:
    for each in record.statistics:
        if each.gpu_uuid:
            continue
        write = _statistic_bytes if "_bytes" in each.name else number_words
        values = f"min {write(each.min)}, mean {write(each.mean)}, max {write(each.max)}"
        yield f"{each.name}: {values}  ({count_words(each.sample_count, 'sample')})"
    yield from statistic_lines(each for each in record.statistics if each.gpu_uuid)


def _statistic_bytes(value: float) -> str:
    return size_words(round(value))
