"""What goes to the terminal or pipe: JSON of a response, or words for people."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from google.protobuf.message import Message

Command = TypeVar("Command", bound=Callable[..., Any])
RowT = TypeVar("RowT")


class Style(StrEnum):
    """How a piece of text stands out on a terminal."""

    PLAIN = ""
    GOOD = "32"
    BAD = "31"
    BUSY = "36"
    FAINT = "2"
    BOLD = "1"


class _Mode:
    """Set once by ``--output``, before the command runs, and read by errors too."""

    is_json = False


def output_option(command: Command) -> Command:
    """Add ``--output human|json`` to a command."""

    def keep(_context: click.Context, _option: click.Parameter, value: str) -> None:
        _Mode.is_json = value == "json"

    return click.option(
        "--output",
        type=click.Choice(["human", "json"]),
        default="human",
        show_default=True,
        envvar="RUNYARD_OUTPUT",
        expose_value=False,
        is_eager=True,
        callback=keep,
        help="Words for people, or the JSON of the response.",
    )(command)


def expect(args: Sequence[str], environment: Mapping[str, str]) -> None:
    """Take up the wish for JSON before the words are parsed: an error of theirs is to be JSON, too."""
    wanted = environment.get("RUNYARD_OUTPUT", "")
    own = args[: args.index("--")] if "--" in args else args
    for word, following in zip(own, (*own[1:], ""), strict=False):
        if word == "--output":
            wanted = following
        elif word.startswith("--output="):
            wanted = word.removeprefix("--output=")
    _Mode.is_json = wanted == "json"


def is_json() -> bool:
    """Say whether the caller wants JSON."""
    return _Mode.is_json


def is_terminal() -> bool:
    """Say whether standard output is a terminal."""
    return sys.stdout.isatty()


def say(text: str = "") -> None:
    """Write a line to standard output."""
    # Text of others (log lines, names) may hold what this terminal cannot show.
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "replace").decode(encoding) + "\n")


def note(text: str) -> None:
    """Write a line about what is going on to standard error, so that pipes stay clean."""
    sys.stdout.flush()
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def say_list(
    answer: Message, rows: Sequence[RowT], say_rows: Callable[[Sequence[RowT]], None], *, nothing: str
) -> None:
    """Write a list: as a table, as JSON, or that there is nothing."""
    if is_json():
        say_json(answer)
    elif not rows:
        say(nothing)
    else:
        say_rows(rows)


def say_json(message: Message) -> None:
    """Write a response as protobuf JSON, with the field names of the proto files."""
    from google.protobuf.json_format import MessageToJson

    say(MessageToJson(message, preserving_proto_field_name=True, ensure_ascii=False))


def say_json_line(message: Message) -> None:
    """Write one item of a stream as a line of protobuf JSON."""
    from google.protobuf.json_format import MessageToJson

    say(MessageToJson(message, preserving_proto_field_name=True, indent=None, ensure_ascii=False))


def say_json_object(content: object) -> None:
    """Write JSON of something that no service answered: a lint result, a local hash."""
    say(json.dumps(content, indent=2, ensure_ascii=False))


def styled(text: str, style: Style) -> str:
    """Colour text when standard output is a terminal that wants colours."""
    if not style or not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{style.value}m{text}\x1b[0m"


def safe(text: str) -> str:
    """Take control characters out of text that somebody else wrote; tabs stay."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char == "\t" else "\ufffd" for char in text)
