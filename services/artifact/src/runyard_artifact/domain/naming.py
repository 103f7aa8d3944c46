"""Names that people give: of aliases, datasets and models, and the references that hold them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from runyard_contracts.ids import StreamName, is_name, stream_name
from runyard_core.errors import InvalidInput

DATASET_SCHEME = "dataset://"
MODEL_SCHEME = "model://"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_NUMBER = re.compile(r"[1-9][0-9]{0,8}")


@dataclass(frozen=True, slots=True)
class VersionName:
    """A dataset or model, and one of its versions."""

    name: str
    version: str
    """Of a dataset its name or an alias; of a model its number; empty when none was said."""


def check_label(text: str, what: str) -> str:
    """Give a name of an alias, dataset, version or model.

    Raises:
        InvalidInput: BAD_NAME.
    """
    if _NAME.fullmatch(text) is None:
        raise InvalidInput(
            f'{what} {text[:120]!r}: want up to 100 letters, digits, ".", "_" and "-", the first no sign',
            code="BAD_NAME",
        )
    return text


def check_project(text: str) -> str:
    """Give a project's name.

    Raises:
        InvalidInput: BAD_PROJECT.
    """
    if not is_name(text):
        raise InvalidInput(f"{text[:80]!r} is not a project name", code="BAD_PROJECT")
    return text


def parse_dataset_version(text: str) -> VersionName:
    """Read "dataset://NAME/VERSION" or "NAME/VERSION".

    Raises:
        InvalidInput: BAD_NAME.
    """
    name, _, version = text.removeprefix(DATASET_SCHEME).partition("/")
    return VersionName(check_label(name, "dataset"), check_label(version, "dataset version"))


def parse_model(text: str) -> VersionName:
    """Read "model://NAME/VERSION" or "NAME/VERSION"; the version may be left out, with or without the slash.

    Raises:
        InvalidInput: BAD_NAME.
    """
    name, _, version = text.removeprefix(MODEL_SCHEME).partition("/")
    if version and _NUMBER.fullmatch(version) is None:
        raise InvalidInput(f"model version {version[:120]!r}: want a whole number from 1", code="BAD_NAME")
    return VersionName(check_label(name, "model"), version)


def alias_stream(project: str, alias: str) -> StreamName:
    """Name the stream of an alias of files."""
    return stream_name("alias", f"{project}.{alias}")


def dataset_stream(project: str, dataset: str) -> StreamName:
    """Name the stream of a dataset."""
    return stream_name("dataset", f"{project}.{dataset}")


def model_stream(project: str, model: str) -> StreamName:
    """Name the stream of a model."""
    return stream_name("model", f"{project}.{model}")
