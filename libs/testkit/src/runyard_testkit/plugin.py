"""The pytest plugin: fixtures, the ``engines`` and ``docker`` marks, Hypothesis' profile and seed."""

from __future__ import annotations

import atexit
import gc
import os
import secrets
from collections.abc import Generator
from pathlib import Path

import hypothesis
import pytest

from runyard_testkit.docker import docker_client, test_image
from runyard_testkit.fixtures import (
    bucket,
    bus,
    database,
    empty_database,
    nats_server,
    own_database,
    own_nats,
    own_postgres,
    own_store,
    postgres,
    role_passwords,
    shared_environments,
    store,
    template_database,
)
from runyard_testkit.groups import group_of
from runyard_testkit.shares import Share, files_of, skips_whole_file

__all__ = [
    "bucket",
    "bus",
    "database",
    "docker_client",
    "empty_database",
    "nats_server",
    "own_database",
    "own_nats",
    "own_postgres",
    "own_store",
    "postgres",
    "role_passwords",
    "shared_environments",
    "store",
    "template_database",
    "test_image",
]

ENGINE_FIXTURES = frozenset({"postgres", "nats_server", "store", "own_postgres", "own_nats", "own_store"})
SLOW_MARKS = frozenset({"system", "engines", "docker", "faults"})
DOCKER_FIXTURES = frozenset({"docker_client", "test_image"})
SHARE_PATHS = pytest.StashKey[frozenset[Path]]()
PROFILE_VARIABLE = "RUNYARD_HYPOTHESIS_PROFILE"

# All unit tests together shall take less than 20 s; a deeper search is one variable away.
hypothesis.settings.register_profile("default", deadline=None, print_blob=True, max_examples=30)
hypothesis.settings.register_profile("thorough", deadline=None, print_blob=True, max_examples=2000)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Choose the profile, and a seed when none is given, before Hypothesis reads it."""
    hypothesis.settings.load_profile(os.environ.get(PROFILE_VARIABLE, "default"))
    if config.getoption("hypothesis_seed", None) is None:
        config.option.hypothesis_seed = _shared_seed(config)


def pytest_report_header(config: pytest.Config) -> str:
    """Print the seed that repeats this session's property tests."""
    return f"hypothesis seed: --hypothesis-seed={config.getoption('hypothesis_seed')}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark by what a test asks for, so that no mark can be forgotten; refuse a group that nobody keeps."""
    for item in items:
        named = item.get_closest_marker("xdist_group")
        if named and named.args != (group_of(item.path),):
            raise pytest.UsageError(
                f'{item.path}: name one group for all the file, as xdist_group("letters")'
            )
        asked = set(getattr(item, "fixturenames", ()))
        if asked & ENGINE_FIXTURES:
            item.add_marker(pytest.mark.engines)
        if asked & DOCKER_FIXTURES:
            item.add_marker(pytest.mark.docker)
    if config.getoption("share"):
        _refuse_unmarked_files(items)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--share``."""
    parser.addoption("--share", default="", help="run the test files of one share, such as 1/2")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect no garbage among modules and tests, which stay: that is a tenth of the quick tests' time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.freeze()
        # Modules take leave as they are used to; but not sooner, as pytest collects all garbage ten times.
        atexit.register(gc.unfreeze)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Import no file of another share, no ``conftest.py`` beside it, and no file that is left out whole."""
    is_folder = collection_path.is_dir()
    if not is_folder and not (collection_path.suffix == ".py" and collection_path.name.startswith("test_")):
        return None
    expression = config.getoption("markexpr")
    if not config.getoption("share"):
        return (not is_folder and skips_whole_file(collection_path, expression)) or None
    if SHARE_PATHS not in config.stash:
        folders = [config.rootpath / name for name in config.getini("testpaths")]
        files = files_of(Share.parse(config.getoption("share")), folders, expression)
        config.stash[SHARE_PATHS] = files.union(*(file.parents for file in files))
    return collection_path not in config.stash[SHARE_PATHS] or None


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """Keep the tests of a group together."""
    if config.getoption("dist") != "loadgroup":
        return None
    # Here and not above: it needs xdist.
    from runyard_testkit.group_scheduling import GroupScheduling

    return GroupScheduling(config, log)


def _refuse_unmarked_files(items: list[pytest.Item]) -> None:
    # The quick tests would read such files for nothing, and all that they import.
    marks_of: dict[Path, set[str]] = {}
    for item in items:
        marks = {mark.name for mark in item.iter_markers() if mark.name in SLOW_MARKS}
        marks_of[item.path] = marks_of.get(item.path, marks) & marks
    unmarked = [f"{path}: pytestmark = pytest.mark.{min(marks)}" for path, marks in marks_of.items() if marks]
    if unmarked:
        raise pytest.UsageError("\n".join(["Files without a quick test shall say so:", *unmarked]))


def _shared_seed(config: pytest.Config) -> str:
    # The workers of one session take the seed that its controller printed.
    given = getattr(config, "workerinput", {}).get("runyard_hypothesis_seed")
    return str(given if given is not None else secrets.randbelow(2**32))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: object) -> None:
    """Hand the seed to an xdist worker."""
    config: pytest.Config = node.config  # type: ignore[attr-defined]  # xdist has no types
    node.workerinput["runyard_hypothesis_seed"] = config.getoption("hypothesis_seed")  # type: ignore[attr-defined]
