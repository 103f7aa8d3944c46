"""What GPUs did, were and suffered, in words for people."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from runyard.metric.v1.batches_pb2 import GpuIncidentSeen
from runyard.metric.v1.gpus_pb2 import GpuProcessOwner, GpuQuantity
from runyard.metric.v1.metric_service_pb2 import GpuProcess, GpuReading, Statistic
from runyard.node.v1.types_pb2 import GpuDevice
from runyard_cli.words import duration_words, number_words, short_run_id, size_words, time_words
from runyard_core.counted import count_words

Figures = Mapping[str, Statistic]
_NOT_OFFERED = "-"
_SLOWDOWNS = {0x08: "hardware", 0x20: "heat", 0x40: "heat", 0x80: "power brake"}


def reading_words(reading: GpuReading, gpu: GpuDevice) -> tuple[str, str, str, str, str]:
    """Give use, memory, power, temperature and clock of a GPU; "-" for what the card does not offer.

    Of a reading that is not of now, only how far it is behind.
    """
    if reading.behind_milliseconds:
        return f"{duration_words(reading.behind_milliseconds / 1000)} behind", "", "", "", ""
    values = {each.quantity: each.value for each in reading.values}
    clock = values.get(GpuQuantity.GPU_QUANTITY_SM_CLOCK_MEGAHERTZ)
    slowed = _slowdown(values.get(GpuQuantity.GPU_QUANTITY_THROTTLE_REASONS, 0))
    words = (
        f"{reading.utilization_percent} %",
        f"{size_words(reading.memory_used_bytes)} of {size_words(gpu.memory_bytes)}",
        f"{reading.power_milliwatts / 1000:.0f} W",
        f"{reading.temperature_celsius} C",
    )
    use, memory, power, temperature = (
        _NOT_OFFERED if reading.not_offered_bits >> bit & 1 else word for bit, word in enumerate(words)
    )
    return use, memory, power, temperature, _NOT_OFFERED if clock is None else f"{clock} MHz{slowed}"


def process_words(process: GpuProcess, run_names: Mapping[str, str]) -> str:
    """Say whose process holds how much of a GPU."""
    share = f", {process.sm_utilization_percent} %" if process.HasField("sm_utilization_percent") else ""
    owner = "of no run"
    if process.owner != GpuProcessOwner.GPU_PROCESS_OWNER_FOREIGN:
        run_id = process.attempt.run_id
        owner = f"of {run_names.get(run_id, short_run_id(run_id))}"
        if process.owner == GpuProcessOwner.GPU_PROCESS_OWNER_OTHER_ATTEMPT:
            owner += ", which was not given this GPU"
    name = process.name or "process"
    return f"{name} ({process.pid}) {owner}: {size_words(process.memory_bytes)}{share}"


def incident_lines(incidents: Iterable[GpuIncidentSeen]) -> Iterator[str]:
    """Say what happened to GPUs, one line each."""
    for seen in incidents:
        moment = Timestamp()
        moment.FromMilliseconds(seen.time_unix_milliseconds)
        yield f"warning: {time_words(moment)} {seen.gpu_uuid}: {seen.detail}"


def statistic_lines(statistics: Iterable[Statistic]) -> Iterator[str]:
    """Say the figures of each GPU, a few lines a GPU; what its card does not offer is not mentioned."""
    by_gpu: dict[str, dict[str, Statistic]] = {}
    for each in statistics:
        by_gpu.setdefault(each.gpu_uuid, {})[each.name.removeprefix("gpu_")] = each
    for gpu_uuid, figures in by_gpu.items():
        samples = max(figure.sample_count for figure in figures.values())
        yield f"{gpu_uuid}: mean (lowest to highest) of {count_words(samples, 'sample')}"
        for parts in _lines(figures):
            known = [part for part in parts if part]
            if known:
                yield "  " + ", ".join(known)


def _lines(figures: Figures) -> Iterator[Iterable[str]]:
    yield (
        _span(figures, "utilization_percent", "used", _unit("%")),
        _span(figures, "memory_used_bytes", "memory", _size),
        _span(figures, "memory_utilization_percent", "memory busy", _unit("%")),
    )
    yield (
        _span(figures, "power_milliwatts", "power", lambda value: f"{value / 1000:.0f} W"),
        _total(figures, "energy_millijoules", lambda value: f"energy {value / 3.6e6:.2f} Wh"),
        _span(figures, "temperature_celsius", "temperature", _unit("C")),
        _span(figures, "memory_temperature_celsius", "memory temperature", _unit("C")),
    )
    yield (
        _span(figures, "sm_clock_megahertz", "SM clock", _unit("MHz")),
        _span(figures, "memory_clock_megahertz", "memory clock", _unit("MHz")),
        _share(figures, "throttled_percent", "held down by heat or power"),
        _share(figures, "power_capped_percent", "at its power cap"),
    )
    yield (
        _link(figures),
        _span(figures, "pcie_sent_kilobytes_per_second", "PCIe out", _rate),
        _span(figures, "pcie_received_kilobytes_per_second", "PCIe in", _rate),
        _total(figures, "pcie_replays", lambda value: count_words(round(value), "PCIe replay")),
    )
    yield (
        _span(figures, "nvlink_sent_kilobytes_per_second", "NVLink out", _rate),
        _span(figures, "nvlink_received_kilobytes_per_second", "NVLink in", _rate),
        _total(figures, "nvlink_errors", lambda value: count_words(round(value), "NVLink error")),
    )
    yield (
        _total(figures, "ecc_corrected_errors", lambda value: f"corrected ECC errors: {value:.0f}"),
        _total(figures, "ecc_uncorrected_errors", lambda value: f"uncorrected ECC errors: {value:.0f}"),
    )


def _span(figures: Figures, name: str, label: str, write: Callable[[float], str]) -> str:
    figure = figures.get(name)
    if figure is None:
        return ""
    if figure.min == figure.max:
        return f"{label} {write(figure.mean)}"
    return f"{label} {write(figure.mean)} ({write(figure.min)} to {write(figure.max)})"


def _total(figures: Figures, name: str, write: Callable[[float], str]) -> str:
    """Say how much a counter grew; nothing when it stood still."""
    figure = figures.get(f"{name}_total")
    return write(figure.max) if figure is not None and figure.max else ""


def _share(figures: Figures, name: str, label: str) -> str:
    figure = figures.get(name)
    return f"{label} {figure.mean:.0f} % of the time" if figure is not None and figure.max else ""


def _link(figures: Figures) -> str:
    generation, width = figures.get("pcie_link_generation"), figures.get("pcie_link_width")
    if generation is None or width is None:
        return ""
    return f"PCIe {generation.max:.0f} x{width.max:.0f}"


def _slowdown(reasons: int) -> str:
    names = dict.fromkeys(name for bit, name in _SLOWDOWNS.items() if reasons & bit)
    return f" ({' and '.join(names)})" if names else ""


def _unit(name: str) -> Callable[[float], str]:
    return lambda value: f"{number_words(round(value, 1))} {name}"


def _size(value: float) -> str:
    return size_words(round(value))


def _rate(value: float) -> str:
    return f"{value / 1000:.0f} MB/s" if value < 1e6 else f"{value / 1e6:.1f} GB/s"
