"""The GPUs of this machine, where it has a real driver."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator

import pytest

from runyard_agent.gpus import Gpus, open_gpus


@pytest.fixture
async def gpus() -> AsyncIterator[Gpus]:
    found = open_gpus()
    if not found.driver_version:
        pytest.skip(found.warnings[0])
    yield found
    found.close()


async def test_a_real_driver_names_its_gpus(gpus: Gpus) -> None:
    devices = await gpus.devices()

    assert re.fullmatch(r"\d+(\.\d+)+", gpus.driver_version)
    assert re.fullmatch(r"\d+\.\d+", gpus.cuda_version)
    assert devices
    assert [device.index for device in devices] == list(range(len(devices)))
    for device in devices:
        assert re.fullmatch(r"GPU-[0-9a-f-]{36}", device.uuid)
        assert device.model
        assert device.memory_bytes > 1 << 30


async def test_a_real_gpu_is_sampled_in_time(gpus: Gpus) -> None:
    devices = await gpus.devices()
    await gpus.sample()
    started_at = time.perf_counter()
    samples = await gpus.sample()
    seconds = time.perf_counter() - started_at
    await asyncio.sleep(0.3)
    later = await gpus.sample()

    for device, sample, next_sample in zip(devices, samples, later, strict=True):
        assert sample is not None
        assert next_sample is not None
        assert sample.uuid == device.uuid
        assert 0 <= sample.utilization_percent <= 100
        assert 0 < sample.memory_used_bytes < device.memory_bytes
        assert sample.power_milliwatts > 1000
        assert 5 < sample.temperature_celsius < 110
        assert next_sample.energy_millijoules > sample.energy_millijoules > 0
    assert seconds < 0.1 * len(devices)


async def test_processes_of_real_gpus_can_be_listed(gpus: Gpus) -> None:
    uuids = {device.uuid for device in await gpus.devices()}

    for process in await gpus.processes():
        assert process.gpu_uuid in uuids
        assert process.pid > 0
