from __future__ import annotations

import pytest

from runyard_servicekit.lifecycle import EXIT_WRONG_SETTINGS, run_service
from runyard_servicekit.settings import ServiceSettings


async def never(_: ServiceSettings) -> None:
    raise AssertionError("it started")


@pytest.mark.parametrize(("name", "wrong"), [("LOG_LEVEL", "loud"), ("STOP_GRACE_SECONDS", "-1")])
def test_a_wrong_setting_is_named_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, wrong: str
) -> None:
    monkeypatch.setenv("RUNYARD_TOKENS_FILE", "tokens.json")
    monkeypatch.setenv(f"RUNYARD_{name}", wrong)
    assert run_service("x", ServiceSettings, never) == EXIT_WRONG_SETTINGS
    assert f"RUNYARD_{name}: " in capsys.readouterr().err
