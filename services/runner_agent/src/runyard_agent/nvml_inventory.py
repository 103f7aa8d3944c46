"""What GPUs the driver shows: model, memory, and the slices of one in MIG mode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from runyard.node.v1.types_pb2 import GpuDevice, MigDevice

MIG_REASON = "it is in MIG mode: runs get whole GPUs only"


def list_devices(nvml: ModuleType, warnings: list[str]) -> list[GpuDevice]:
    """List the GPUs by index; ``warnings`` gets a sentence for each that cannot be used.

    Raises:
        pynvml.NVMLError: the driver does not even count them.
    """
    devices: list[GpuDevice] = []
    for index in range(nvml.nvmlDeviceGetCount()):
        try:
            device = _device(nvml, index)
        except nvml.NVMLError as error:
            warnings.append(f"GPU {index} cannot be used: NVML says {error}.")
            continue
        devices.append(device)
        if device.unusable_reason:
            slices = ", ".join(each.profile for each in device.mig_devices) or "no devices yet"
            warnings.append(f"GPU {index} cannot be used: {device.unusable_reason} (it has {slices}).")
    return devices


def _device(nvml: ModuleType, index: int) -> GpuDevice:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    is_cut = _is_in_mig_mode(nvml, handle)
    return GpuDevice(
        uuid=str(nvml.nvmlDeviceGetUUID(handle)),
        index=index,
        model=str(nvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
        unusable_reason=MIG_REASON if is_cut else "",
        mig_devices=_slices(nvml, handle) if is_cut else (),
    )


def _is_in_mig_mode(nvml: ModuleType, handle: Any) -> bool:
    try:
        current, _ = nvml.nvmlDeviceGetMigMode(handle)
    except nvml.NVMLError:
        return False
    return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)


def _slices(nvml: ModuleType, parent: Any) -> Iterator[MigDevice]:
    for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(parent)):
        with contextlib.suppress(nvml.NVMLError):
            handle = nvml.nvmlDeviceGetMigDeviceHandleByIndex(parent, index)
            name = str(nvml.nvmlDeviceGetName(handle))
            yield MigDevice(
                uuid=str(nvml.nvmlDeviceGetUUID(handle)),
                profile=name.rpartition(" MIG ")[2],
                memory_bytes=int(nvml.nvmlDeviceGetMemoryInfo(handle).total),
                gpu_instance_id=nvml.nvmlDeviceGetGpuInstanceId(handle),
                compute_instance_id=nvml.nvmlDeviceGetComputeInstanceId(handle),
            )
