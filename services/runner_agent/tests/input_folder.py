"""What the tests of inputs share: a yard that has files, and the folder of an attempt that gets them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runyard.run.v1.types_pb2 import Input
from runyard_agent import inputs
from runyard_agent.input_sources import InputRules, InputSources
from runyard_agent.inputs import InputsOf
from runyard_agent.known_addresses import KnownAddresses
from runyard_core.clock import SystemClock

from .store_double import Yard, serving


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yield yard


async def fetch(
    yard: Yard,
    tmp_path: Path,
    *wanted: Input,
    shared_folders: tuple[Path, ...] = (),
    told: list[str] | None = None,
    variables: dict[str, str] | None = None,
    addresses: KnownAddresses | None = None,
) -> list[Input]:
    said = told if told is not None else []
    rules = InputRules(shared_folders=shared_folders)
    sources = InputSources(yard.client, yard.cache, rules, SystemClock(), variables or {}, addresses)
    try:
        of = InputsOf("vision", yard.client, yard.cache, sources, said.append)
        return await inputs.fetch(of, wanted, tmp_path / "inputs")
    finally:
        sources.close()
