"""Plugin of pytest that tells each outcome at once: a run that is cut off has told what it saw until then."""

from __future__ import annotations

from collections.abc import Generator

import pytest


class AsItComes:
    """Prints reports when they are made, instead of at the end."""

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._seconds: dict[str, float] = {}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self._seconds[nodeid] = 0
        self._tell(f"begins   {_name(nodeid)}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._seconds[report.nodeid] += report.duration
        if report.failed:
            self._tell(f"-- {report.when}\n{report.longreprtext}")
            for title, said in report.sections:
                self._tell(f"-- {title}\n{said}")
        if report.failed or report.skipped or report.when == "call":
            seconds = self._seconds[report.nodeid]
            self._tell(f"{report.outcome:<8} {_name(report.nodeid)} after {seconds:.0f} s of the guest")

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._tell(f"failed   {_name(report.nodeid)}, to be read\n{report.longreprtext}")

    @pytest.hookimpl(wrapper=True)
    def pytest_report_teststatus(self) -> Generator[None, tuple[str, str, str], tuple[str, str, str]]:
        category, _, word = yield
        return category, "", word  # no letters between the lines

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self) -> None:
        # All of it was told; what remains is the summary.
        self._config.option.tbstyle = "no"

    def _tell(self, text: str) -> None:
        reporter: pytest.TerminalReporter = self._config.pluginmanager.getplugin("terminalreporter")
        reporter.ensure_newline()
        reporter.line(text)
        reporter.flush()


def _name(nodeid: str) -> str:
    file, _, test = nodeid.partition("::")
    return f"{file.rpartition('/')[2]}::{test}"


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(AsItComes(config))
