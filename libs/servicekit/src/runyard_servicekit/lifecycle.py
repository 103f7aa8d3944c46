"""Start and stop of a service's process: logs, traces, metrics, signals, one exit code."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog
from pydantic import ValidationError

from runyard_core.errors import RunyardError
from runyard_eventlog.collector import set_collector
from runyard_servicekit.logs import configure_logs
from runyard_servicekit.metering import configure_metering
from runyard_servicekit.settings import ServiceSettings
from runyard_servicekit.tracing import configure_tracing

EXIT_FAILED = 1
EXIT_WRONG_SETTINGS = 2

SettingsT = TypeVar("SettingsT", bound=ServiceSettings)

log = structlog.get_logger("runyard.lifecycle")


def run_service(
    name: str, settings_class: type[SettingsT], main: Callable[[SettingsT], Awaitable[None]]
) -> int:
    """Run a service until it ends or SIGTERM or SIGINT asks it to; gives the exit code.

    ``main`` is cancelled by a signal and cleans up in its ``finally`` blocks.
    """
    try:
        settings = settings_class()  # type: ignore[call-arg]  # its fields come from the environment
    except ValidationError as error:
        wrong = ", ".join(
            f"RUNYARD_{'_'.join(map(str, e['loc'])).upper()}: {e['msg']}" for e in error.errors()
        )
        print(f"runyard-{name}: wrong settings: {wrong}", file=sys.stderr)  # noqa: T201 - logs are not set up yet
        return EXIT_WRONG_SETTINGS
    configure_logs(name, settings.log_level)
    tracing = configure_tracing(name, settings.otlp_endpoint)
    metering = configure_metering(name, settings.otlp_endpoint)
    try:
        # A collector that looks through modules and pages of the log slows a replay by a quarter.
        set_collector()
        return asyncio.run(_until_signal(main(settings)))
    finally:
        tracing.shutdown()
        metering.shutdown()


async def _until_signal(main: Awaitable[None]) -> int:
    work = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped")
        return 0
    except BaseExceptionGroup as group:
        log.critical("ended", reasons=_reasons(group), exc_info=_unexpected(group))
        return EXIT_FAILED
    except RunyardError as error:
        log.critical("ended", reason=error.code, message=error.message)
        return EXIT_FAILED
    return 0


def _reasons(group: BaseExceptionGroup[BaseException]) -> list[str]:
    reasons: list[str] = []
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            reasons.extend(_reasons(error))
        else:
            reasons.append(f"{type(error).__name__}: {error}")
    return reasons


def _unexpected(group: BaseExceptionGroup[BaseException]) -> BaseExceptionGroup[BaseException] | None:
    """Keep the traceback only of what nobody raised on purpose."""
    return group.split(RunyardError)[1]
