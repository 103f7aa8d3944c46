"""One embedded yard for all end-to-end tests of a worker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.e2e.yard import Clients, Yard


@pytest.fixture(scope="session")
def yard(tmp_path_factory: pytest.TempPathFactory, shared_environments: Path) -> Iterator[Yard]:
    running = Yard(home=Path(tmp_path_factory.mktemp("yard")))
    running.share(shared_environments)
    running.up("--listen", "127.0.0.1")
    try:
        yield running
    finally:
        running.down()


@pytest.fixture
async def clients(yard: Yard) -> AsyncIterator[Clients]:
    async with Clients(yard) as opened:
        yield opened
