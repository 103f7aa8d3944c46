"""Write docs/events.md from the protos: every event with its fields, units and stream (make docs)."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from google.protobuf.descriptor_pb2 import (
    DescriptorProto,
    FieldDescriptorProto,
    FileDescriptorProto,
    FileDescriptorSet,
)
from grpc_tools import protoc  # type: ignore[import-untyped]

from runyard.event.v1.envelope_pb2 import Lane
from runyard.event.v1.options_pb2 import EventOptions, event

REPOSITORY = Path(__file__).resolve().parent.parent
MESSAGE_FIELD = 4
MESSAGE_FIELDS = 2
_HEADER = """# Events

Generated from the protos by `make docs`; do not edit. An event's envelope is described in
`proto/runyard/event/v1/envelope.proto`. How to add one: [how-to/add-an-event.md](how-to/add-an-event.md).
"""


def main() -> int:
    """Write the page, or with ``--check`` say whether it is up to date (exit 1 when not)."""
    page = REPOSITORY / "docs" / "events.md"
    text = _HEADER + "".join(_sections(_described(REPOSITORY / "proto")))
    if "--check" not in sys.argv:
        page.write_text(text)
        return 0
    if page.exists() and page.read_text() == text:
        return 0
    sys.stderr.write("docs/events.md is not what the protos say: run make docs\n")
    return 1


def _described(root: Path) -> FileDescriptorSet:
    files = sorted(str(path.relative_to(root)) for path in root.rglob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "all.binpb"
        arguments = ["protoc", f"-I{root}", f"-I{Path(protoc.__file__).parent / '_proto'}"]
        code = protoc.main([*arguments, "--include_source_info", f"--descriptor_set_out={out}", *files])
        if code != 0:
            raise SystemExit(code)
        return FileDescriptorSet.FromString(out.read_bytes())


def _sections(described: FileDescriptorSet) -> Iterator[str]:
    for file in described.file:
        comments = {tuple(at.path): at.leading_comments.strip() for at in file.source_code_info.location}
        events = [
            (index, message)
            for index, message in enumerate(file.message_type)
            if message.options.HasExtension(event)
        ]
        if events:
            yield f"\n## {file.package}\n\n{_file_comment(file)}\n"
        for index, message in events:
            yield _event(message, comments, (MESSAGE_FIELD, index))


def _event(message: DescriptorProto, comments: dict[tuple[int, ...], str], path: tuple[int, ...]) -> str:
    options: EventOptions = message.options.Extensions[event]
    lane = Lane.Name(options.lane).removeprefix("LANE_").lower()
    lines = [
        f"\n### {options.type}\n\n{_one_line(comments.get(path, ''))}\n",
        f"Message `{message.name}`, schema version {options.schema_version}, {lane} lane.\n",
        "| field | type | meaning |\n| --- | --- | --- |",
    ]
    for index, field in enumerate(message.field):
        meaning = _one_line(comments.get((*path, MESSAGE_FIELDS, index), ""))
        lines.append(f"| `{field.name}` | {_type(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _file_comment(file: FileDescriptorProto) -> str:
    package_path = (2,)
    for at in file.source_code_info.location:
        if tuple(at.path) == package_path:
            detached = " ".join(_one_line(comment) for comment in at.leading_detached_comments)
            return _one_line(detached or at.leading_comments)
    return ""


def _type(field: FieldDescriptorProto) -> str:
    if field.type_name:
        name = field.type_name.rpartition(".")[2]
    else:
        name = FieldDescriptorProto.Type.Name(field.type).removeprefix("TYPE_").lower()
    repeated = field.label == FieldDescriptorProto.LABEL_REPEATED
    return f"list of {name}" if repeated else name


def _one_line(comment: str) -> str:
    return " ".join(comment.split())


if __name__ == "__main__":
    raise SystemExit(main())
