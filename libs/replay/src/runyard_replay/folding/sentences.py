"""Every event in a sentence for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.message import Message

from runyard.artifact.v1 import events_pb2 as artifact_events
from runyard.artifact.v1 import registry_events_pb2 as registry_events
from runyard.cost.v1 import events_pb2 as cost_events
from runyard.cost.v1.types_pb2 import PriceUnit
from runyard.history.v1 import events_pb2 as history_events
from runyard.metric.v1 import batches_pb2 as batches
from runyard.node.v1 import events_pb2 as node_events
from runyard.projection.v1 import events_pb2 as projection_events
from runyard.run.v1 import events_pb2 as run_events
from runyard.run.v1.types_pb2 import Cause, CauseCode, Input, OnLost, Outcome
from runyard_contracts.envelope import UndecodableEventError
from runyard_contracts.hands_on_words import end_text, what_text
from runyard_contracts.recorded import RecordedEvent
from runyard_contracts.registry import UnknownEventTypeError
from runyard_contracts.upcasting import NoUpcasterError
from runyard_core.counted import count_words
from runyard_replay.folding.fields import json_content
from runyard_replay.pricing.explanation import duration_text, money_text

ID_CHARACTERS = 8
"""Of a checksum, as people see it."""
RUN_ID_CHARACTERS = 13
"""Of a run id. It begins with its time: runs of one minute share 8 characters, those of a millisecond 13."""
LINE_CHARACTERS_MAX = 80
_OTHER_CHARACTERS_MAX = 120
_CAUSES: Mapping[int, str] = {
    number: name.removeprefix("CAUSE_CODE_").lower().replace("_", " ") for name, number in CauseCode.items()
}
_OUTCOMES: Mapping[int, str] = {
    number: name.removeprefix("OUTCOME_").lower() for name, number in Outcome.items()
}
"""In words; what a later version says, neither has."""


def sentence_of(event: RecordedEvent) -> str:
    """Say what an event says; of one that this version cannot read, that it cannot."""
    try:
        message = event.message
    except (UnknownEventTypeError, UndecodableEventError, NoUpcasterError) as error:
        return f"cannot be read here: {error}"
    return (
        _of_run(message)
        or _of_attempt(message)
        or _of_hands_on(message)
        or _of_node(message)
        or _of_files_and_prices(message)
        or _of_names(message)
        or _of_telemetry(message)
        or _of_the_log(message)
        or _of_other(message)
    )


def cause_text(cause: Cause) -> str:
    """Say why something ended: "user error, exit code 1: ..."."""
    words = _CAUSES.get(cause.code, f"cause code {cause.code}")
    if cause.HasField("exit_code") and cause.exit_code:
        words += f", exit code {cause.exit_code}"
    if cause.signal:
        words += f", signal {cause.signal}"
    return f"{words}: {cause.detail}" if cause.detail else words


def _of_run(message: Message) -> str:
    match message:
        case run_events.RunQueued():
            gpu_count = message.spec.resources.gpu_count
            wants = f", wants {count_words(gpu_count, 'GPU')}" if gpu_count else ""
            return f"queued as {message.project}#{message.number}: step {message.spec.step}{wants}"
        case run_events.RunRequeued():
            return f"queued again for attempt {message.next_attempt}: {message.reason}"
        case run_events.RunStopRequested():
            return f"stop requested: {message.reason or 'no reason given'}"
        case run_events.RunFinished():
            outcome = _OUTCOMES.get(message.outcome, f"outcome {message.outcome}")
            output_count = _output_count(message)
            outputs = f", {count_words(output_count, 'output')}" if output_count else ""
            why = "" if message.cause.code == CauseCode.CAUSE_CODE_SUCCEEDED else cause_text(message.cause)
            return f"finished, {outcome}{f' ({why})' if why else ''}{outputs}"
        case run_events.ProjectSecretSet():
            return f"secret {message.name} {'got another value' if message.replaced else 'set'}"
        case run_events.ProjectSecretRemoved():
            return f"secret {message.name} removed"
        case run_events.ProjectCreated():
            return f"project {message.project} created"
        case run_events.ProjectRunNumbered():
            return f"run {_short_run(message.run_id)} is {message.project}#{message.number}"
        case _:
            return ""


def _of_attempt(message: Message) -> str:
    match message:
        case run_events.RunLeaseGranted():
            gpus = f" with {', '.join(message.gpu_uuids)}" if message.gpu_uuids else ""
            return f"attempt {message.attempt} leased to {message.node_id}{gpus} (epoch {message.epoch})"
        case run_events.RunStarted():
            return f"attempt {message.attempt} started on {message.hardware.node_id}{_had(message.inputs)}"
        case run_events.EnvironmentCaptured():
            environment = message.environment
            what = environment.image or environment.interpreter
            count = len(environment.packages) + environment.system_package_count
            return f"environment captured: {what}, {count_words(count, 'package')}"
        case run_events.RunInputFetched():
            file = message.file
            what = f"{file.resolved_uri or file.uri} ({_short(file.sha256)}, {file.size_bytes} B)"
            return f"input {message.input}: {what} fetched on demand"
        case run_events.RunStatusDetailSet():
            return f"status: {_cut(message.status_detail)}"
        case run_events.RunUnreachable():
            silent = duration_text(message.silent_milliseconds)
            return f"attempt {message.attempt} not heard from: {message.node_id} silent for {silent}"
        case run_events.RunReachableAgain():
            return f"attempt {message.attempt} heard from again on {message.node_id}"
        case run_events.RunLeaseExpired():
            then = "not waited for" if message.on_lost == OnLost.ON_LOST_REQUEUE else "waiting for its node"
            return f"lease of attempt {message.attempt} on {message.node_id} ran out, {then}"
        case run_events.RunAttemptExited():
            return f"attempt {message.attempt} exited: {cause_text(message.cause)}"
        case run_events.RunAttemptFailed():
            return f"attempt {message.attempt} failed: {cause_text(message.cause)}"
        case run_events.RunStaleReportReceived():
            why = "that attempt was given up before"
            if message.epoch != message.current_epoch:
                why = f"epoch {message.epoch} is older than {message.current_epoch}"
            output_count = _output_count(message)
            outputs = f" with {count_words(output_count, 'output')}" if output_count else ""
            what = f'late report "{message.report}"{outputs} of attempt {message.attempt}'
            return f"{what} from {message.node_id}: {why}, so nothing changed"
        case _:
            return ""


def _of_hands_on(message: Message) -> str:
    match message:
        case run_events.RunHandsOnOpened():
            what = what_text(message.command, message.port, terminal=message.terminal)
            return f"hands on attempt {message.attempt} on {message.node_id}: {what} opened"
        case run_events.RunHandsOnClosed():
            status = message.exit_status if message.HasField("exit_status") else None
            passed = f"{message.sent_bytes} B sent, {message.received_bytes} B received"
            if message.connection_count:
                passed += f" in {count_words(message.connection_count, 'connection')}"
            end = end_text(message.end_reason, status, message.detail)
            return f"hands on attempt {message.attempt} closed: {end} ({passed})"
        case _:
            return ""


def _of_node(message: Message) -> str:
    match message:
        case node_events.NodeEnrolled():
            inventory = message.inventory
            slots = count_words(inventory.slot_count, "slot")
            return f"enrolled with {count_words(len(inventory.gpus), 'GPU')} and {slots}"
        case node_events.NodeAttached():
            return f"agent {message.agent_version} attached"
        case node_events.NodeDetached():
            silent = duration_text(message.silent_milliseconds)
            return f"agent detached: {message.reason}, silent for {silent}"
        case node_events.NodeInventoryChanged():
            gpus = message.inventory.gpus
            unfit = [f"{gpu.uuid} ({gpu.unusable_reason})" for gpu in gpus if gpu.unusable_reason]
            why = f", not fit for use: {', '.join(unfit)}" if unfit else ""
            return f"inventory changed: {len(gpus)} GPUs{why}"
        case node_events.NodeGpusReserved():
            what = ", ".join(message.gpu_uuids) or "a slot"
            return f"reserved {what} for run {_short_run(message.run_id)} attempt {message.attempt}"
        case node_events.NodeGpusReleased():
            what = ", ".join(message.gpu_uuids) or "a slot"
            return f"released {what} of run {_short_run(message.run_id)} attempt {message.attempt}"
        case node_events.NodeForeignProcessSeen():
            what = f"foreign process {message.process_name} ({message.pid}) on {message.gpu_uuid}"
            held = f"holds {message.memory_bytes / 2**30:.1f} GiB"
            return f"{what} {'is gone' if message.gone else held}"
        case _:
            return _of_access(message)


def _of_access(message: Message) -> str:
    match message:
        case node_events.NodeInvited():
            return f"invited to enroll until {message.expires_at.ToJsonString()}"
        case node_events.NodeCredentialIssued():
            return f"handed its token in, and got credential {_short(message.credential_sha256)}"
        case node_events.NodeRevoked():
            return f"revoked: {message.reason or 'no reason given'}"
        case _:
            return ""


def _of_files_and_prices(message: Message) -> str:
    match message:
        case artifact_events.ArtifactUploadBegun():
            return f"upload of {message.origin.path} ({_short(message.sha256)}) begun"
        case artifact_events.ArtifactWritten():
            origin = message.origin
            source = f" by run {_short_run(origin.run_id)}" if origin.run_id else ""
            return f"{origin.path} ({_short(message.sha256)}, {message.size_bytes} B) stored{source}"
        case artifact_events.CodeSnapshotRecorded():
            code = message.code
            return f"code {_short(code.tree_sha256)} recorded: {count_words(code.file_count, 'file')}"
        case cost_events.PriceSet():
            price = message.price
            scope = price.node_id or price.gpu_model or "everything"
            unit = "node" if price.unit == PriceUnit.PRICE_UNIT_NODE_HOUR else "GPU"
            since = price.effective_from.ToJsonString()
            return f"{scope} costs {money_text(price.micro_usd_per_hour)} a {unit}-hour from {since}"
        case _:
            return ""


def _of_names(message: Message) -> str:
    match message:
        case registry_events.ArtifactTagged():
            return f"file {_short(message.sha256)} tagged {', '.join(message.tags)}"
        case registry_events.ArtifactPropertiesSet():
            names = sorted(message.properties.fields)
            return f"file {_short(message.sha256)} got properties {_cut(', '.join(names))}"
        case registry_events.ArtifactAliasMoved():
            former = f", before {_short(message.previous_sha256)}" if message.previous_sha256 else ""
            return f"alias {message.alias} stands for file {_short(message.sha256)}{former}"
        case registry_events.DatasetVersionCreated():
            base = f", made from {message.from_version}" if message.from_version else ""
            return f"dataset {message.dataset}/{message.version} created: {len(message.files)} files{base}"
        case registry_events.DatasetAliasMoved():
            former = f", before {message.previous_version}" if message.previous_version else ""
            return f"dataset {message.dataset}/{message.alias} stands for {message.version}{former}"
        case registry_events.ModelVersionRegistered():
            return f"model {message.model}/{message.version} registered: {len(message.files)} files"
        case _:
            return ""


def _of_telemetry(message: Message) -> str:
    match message:
        case batches.LogChunkRecorded():
            first, count = message.first_line_number, len(message.lines)
            last_line = _cut(message.lines[-1]) if count else ""
            return f"{_numbered('log line', first, count)}: {last_line}"
        case batches.MetricPointsRecorded():
            return f"{len(message.values)} points of {', '.join(message.names)}"
        case batches.GpuSamplesRecorded():
            rows = len(message.times_unix_milliseconds)
            percents = message.utilization_percents
            mean = f", {sum(percents) / len(percents):.0f} % used" if percents else ""
            return f"{count_words(rows, 'sample')} of {count_words(len(message.gpu_uuids), 'GPU')}{mean}"
        case batches.GpuIncidentSeen():
            return f"{message.gpu_uuid}: {message.detail}"
        case batches.HostSamplesRecorded():
            rows = len(message.times_unix_milliseconds)
            memory = max(message.memory_used_bytes, default=0)
            return f"{count_words(rows, 'sample')} of processes, up to {memory / 2**20:.0f} MiB"
        case batches.SamplesMissing():
            missing = count_words(message.sample_count, f"missing {message.kind} sample")
            return f"{missing}: {message.reason}"
        case _:
            return ""


def _of_the_log(message: Message) -> str:
    match message:
        case history_events.LogEventDisputed():
            event = f"{message.event_type} at position {message.event_position}"
            return f"{event} {'counts again' if message.withdrawn else 'is disputed'}: {_cut(message.reason)}"
        case projection_events.ProjectionRebuilt():
            what = f"read model {message.service}/{message.projection} rebuilt to position {message.position}"
            return f"{what}; it differed, which was accepted" if message.differences_accepted else what
        case _:
            return ""


def _of_other(message: Message) -> str:
    """Say what an event of later versions says, by its fields."""
    content = json_content(message) or {}
    said = ", ".join(f"{name} {value}" for name, value in content.items())
    return _cut(said, _OTHER_CHARACTERS_MAX) or message.DESCRIPTOR.name


def _numbered(what: str, first: int, count: int) -> str:
    return f"{what} {first}" if count == 1 else f"{what}s {first} to {first + count - 1}"


def _output_count(end: run_events.RunFinished | run_events.RunStaleReportReceived) -> int:
    return end.output_list.file_count or len(end.outputs)


def _had(inputs: Sequence[Input]) -> str:
    """Say what of the inputs had to be moved; nothing where that was not recorded."""
    hidden = sum(one.file_list.file_count - len(one.files) for one in inputs if one.file_list.file_count)
    moved = [each.moved_bytes for one in inputs for each in one.files if each.HasField("moved_bytes")]
    if not moved:
        return ""
    files = count_words(len(moved) + hidden, "input file")
    if hidden:
        return f" with {files}, {sum(moved)} bytes of the first {len(moved)} moved"
    return f" with {files}, {sum(moved)} bytes moved" if any(moved) else f" with {files} of its cache"


def _short_run(run_id: str) -> str:
    return run_id[:RUN_ID_CHARACTERS]


def _short(identity: str) -> str:
    return identity[:ID_CHARACTERS]


def _cut(text: str, characters_max: int = LINE_CHARACTERS_MAX) -> str:
    return text if len(text) <= characters_max else text[: characters_max - 1] + "\u2026"
