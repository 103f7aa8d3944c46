"""The worked example of docs/how-to/add-an-event.md: compiled, stored at version 1, read at version 2."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message
from grpc_tools import protoc  # type: ignore[import-untyped]

from runyard.event.v1 import options_pb2
from runyard.event.v1.envelope_pb2 import Envelope
from runyard_contracts import registry, upcasting
from runyard_contracts.envelope import UndecodableEventError, unwrap, wrap
from runyard_contracts.ids import StreamName, stream_name
from runyard_contracts.registry import EventType
from runyard_contracts.upcasting import NoUpcasterError
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import StreamAppend
from tests.contract.events import NOON, command, context

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "how-to" / "add-an-event.md"
MODULE = "runyard.node.v1.drain_events_pb2"
NAME = "runyard.node.drained"


def block(kind: str) -> str:
    """Give the page's code block of a kind, as one would type it."""
    (found,) = re.findall(rf"^ *```{kind}\n(.*?)^ *```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    indent = len(found) - len(found.lstrip(" "))
    return "".join(line[indent:] if line.strip() else line for line in found.splitlines(keepends=True))


def compiled(version: int, folder: Path) -> tuple[EventType, ModuleType]:
    """Compile a version of the event with the contracts, apart from what this process has loaded."""
    source = folder / "runyard" / "node" / "v1" / "drain_events.proto"
    source.parent.mkdir(parents=True, exist_ok=True)
    source.write_text(block(f"proto version {version}"))
    out = folder / f"{version}.binpb"
    well_known = Path(protoc.__file__).parent / "_proto"
    arguments = ["protoc", f"-I{folder}", f"-I{ROOT / 'proto'}", f"-I{well_known}", "--include_imports"]
    assert protoc.main([*arguments, f"--descriptor_set_out={out}", str(source)]) == 0
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file:
        pool.Add(file)
    found = pool.FindFileByName("runyard/node/v1/drain_events.proto")
    module = ModuleType(MODULE)
    for name, descriptor in found.message_types_by_name.items():
        setattr(module, name, message_factory.GetMessageClass(descriptor))
    for name, enum in found.enum_types_by_name.items():
        setattr(module, name, ModuleType(name))
        for value in enum.values:
            setattr(getattr(module, name), value.name, value.number)
    drained = found.message_types_by_name["NodeDrained"]
    # The options come from another pool, so they are read as bytes once more.
    options = descriptor_pb2.MessageOptions.FromString(drained.GetOptions().SerializeToString())
    said = options.Extensions[options_pb2.event]
    message_class = message_factory.GetMessageClass(drained)
    return (
        EventType(said.type, said.schema_version, said.lane, message_class, message_class.FromString),
        module,
    )


def know(monkeypatch: pytest.MonkeyPatch, event: EventType) -> None:
    """Let the contracts know the event, as after ``make proto``."""
    by_message = {**registry._BY_MESSAGE, event.message_class.DESCRIPTOR.full_name: event}
    monkeypatch.setattr(registry, "BY_NAME", {**registry.BY_NAME, event.name: event})
    monkeypatch.setattr(registry, "_BY_MESSAGE", by_message)


def steps_of_the_page(monkeypatch: pytest.MonkeyPatch, module: ModuleType) -> Mapping[tuple[str, int], Any]:
    """Execute the page's Python."""
    monkeypatch.setitem(sys.modules, MODULE, module)
    names: dict[str, Any] = {}
    exec(compile(block("python"), str(PAGE), "exec"), names)
    steps: Mapping[tuple[str, int], Any] = names["STEPS"]
    return steps


async def test_an_event_stored_at_version_1_is_read_at_version_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, module = compiled(1, tmp_path)
    assert (first.name, first.schema_version) == (NAME, 1)
    know(monkeypatch, first)
    log, stream = MemoryEventLog(), stream_name("node", "n1")
    reasons = ["maintenance: swap the fan", "fault: XID 79", "nobody knows", "boredom: yes", ""]
    for version, reason in enumerate(reasons):
        message = module.NodeDrained(node_id="n1", reason=reason)
        await log.append(command(StreamAppend(stream, version, [_wrapped(message, stream)])))
    stored = [event.envelope for event in await log.read_stream(stream)]

    second, module = compiled(2, tmp_path)
    assert (second.name, second.schema_version) == (NAME, 2)
    know(monkeypatch, second)
    with pytest.raises(NoUpcasterError, match="from version 1 to 2"):
        unwrap(stored[0])
    for key, step in steps_of_the_page(monkeypatch, module).items():
        monkeypatch.setitem(upcasting.STEPS, key, step)
    cause = module.DrainCause
    read: list[Any] = [event.message for event in await log.read_stream(stream)]
    assert [(message.node_id, message.reason, message.cause, message.note) for message in read] == [
        ("n1", "", cause.DRAIN_CAUSE_MAINTENANCE, "swap the fan"),
        ("n1", "", cause.DRAIN_CAUSE_FAULT, "XID 79"),
        ("n1", "", cause.DRAIN_CAUSE_UNSPECIFIED, "nobody knows"),
        ("n1", "", cause.DRAIN_CAUSE_UNSPECIFIED, "boredom: yes"),
        ("n1", "", cause.DRAIN_CAUSE_UNSPECIFIED, ""),
    ]
    # What is stored stays as it was written, and an event of the newest version is read as it is.
    assert [event.envelope for event in await log.read_stream(stream)] == stored
    new = module.NodeDrained(node_id="n1", cause=cause.DRAIN_CAUSE_FAULT, note="fault: no step sees this")
    assert unwrap(_wrapped(new, stream)) == new


async def test_a_payload_on_which_a_step_fails_is_undecodable_and_a_newer_version_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    second, module = compiled(2, tmp_path)
    know(monkeypatch, second)
    for key, step in steps_of_the_page(monkeypatch, module).items():
        monkeypatch.setitem(upcasting.STEPS, key, step)
    for broken in (b"\xff", b"\x12\x05ab"):
        with pytest.raises(UndecodableEventError):
            unwrap(Envelope(type=NAME, schema_version=1, data=broken))
    with pytest.raises(NoUpcasterError, match="newer than this code"):
        unwrap(Envelope(type=NAME, schema_version=3))


def test_what_the_page_names_exists() -> None:
    text = PAGE.read_text()
    paths = re.findall(r"`((?:libs|tests|services|proto)/[\w./-]+)`", text)
    modules = re.findall(r"python -m ([\w.]+)", text)
    assert len(paths) > 3
    assert modules
    for path in paths:
        assert (ROOT / path).exists() or path == "proto/runyard/node/v1/drain_events.proto", path
    for module in modules:
        assert (ROOT / f"{module.replace('.', '/')}.py").exists(), module


def _wrapped(message: Message, stream: StreamName) -> Envelope:
    return wrap(message, stream, context(), NOON)
