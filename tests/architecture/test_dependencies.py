"""What each package says that it needs."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = sorted(path for path in ROOT.glob("[lsd]*/*/pyproject.toml"))
SERVICES = {path.parent.name: path for path in ROOT.glob("services/*/pyproject.toml")}
AGENT_MAY_NEED = frozenset(
    {
        "runyard-contracts",
        "runyard-core",
        "docker",
        "googleapis-common-protos",
        "grpcio",
        "nats-py",
        "nvidia-ml-py",
        "opentelemetry-api",
        "opentelemetry-exporter-otlp-proto-grpc",
        "opentelemetry-sdk",
        "protobuf",
    }
)


def needs(path: Path) -> set[str]:
    return names(tomllib.loads(path.read_text())["project"]["dependencies"])


def extras(path: Path) -> set[str]:
    optional = tomllib.loads(path.read_text())["project"].get("optional-dependencies", {})
    return set().union(*map(names, optional.values()))


def names(lines: list[str]) -> set[str]:
    return {re.split(r"[\[<>=!~; ]", line)[0] for line in lines}


def ids(path: Path) -> str:
    return str(path.parent.relative_to(ROOT))


def test_the_agent_is_light() -> None:
    assert needs(SERVICES["runner_agent"]) <= AGENT_MAY_NEED


def test_the_core_needs_nothing() -> None:
    assert needs(ROOT / "libs/core/pyproject.toml") == set()


@pytest.mark.parametrize("path", PACKAGES, ids=ids)
def test_the_build_backend_is_pinned(path: Path) -> None:
    assert tomllib.loads(path.read_text())["build-system"]["requires"] == ["hatchling==1.33.0"]


@pytest.mark.parametrize("path", PACKAGES, ids=ids)
def test_every_third_party_package_is_pinned_by_hash(path: Path) -> None:
    pinned = re.findall(r"^([a-z0-9.-]+)==\S+.*\\\n    --hash=sha256:", constraints(), flags=re.MULTILINE)
    wanted = needs(path) | extras(path)
    assert {name for name in wanted if not name.startswith("runyard-")} <= set(pinned)


@pytest.mark.parametrize("path", PACKAGES, ids=ids)
def test_a_package_names_each_of_ours_that_it_imports(path: Path) -> None:
    project = tomllib.loads(path.read_text())["project"]
    own = {
        f"runyard-{root.removeprefix('runyard_')}" if root != "runyard" else "runyard-contracts"
        for file in (path.parent / "src").rglob("*.py")
        for root in roots_imported(file)
        if root == "runyard" or root.startswith("runyard_")
    }
    assert own - {project["name"]} <= needs(path) | extras(path)


def test_constraints_name_no_place_and_no_path() -> None:
    assert not re.search(r"://|^-|/", constraints(), flags=re.MULTILINE)


@pytest.mark.parametrize("path", PACKAGES, ids=ids)
def test_every_package_is_checked_for_types_and_imports(path: Path) -> None:
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]
    (package,) = (path.parent / "src").glob("runyard_*")
    assert str(package.parent.relative_to(ROOT)) in tools["mypy"]["mypy_path"]
    assert package.name in tools["importlinter"]["root_packages"]


def test_the_agent_and_the_demo_need_no_tool_of_development() -> None:
    runs = constraints().split("# Tools of development")[0]
    for tool in ("pytest", "mypy", "ruff", "grpcio-tools", "buf-bin", "hypothesis", "uv"):
        assert not re.search(rf"^{tool}==", runs, flags=re.MULTILINE), tool


def test_the_top_level_holds_what_was_agreed() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    found = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    assert found <= {
        *("README.md", "Makefile", "LICENSE", "pyproject.toml", "constraints.txt"),
        *("proto", "services", "libs", "deploy", "tests", "docs"),
    }


def constraints() -> str:
    return (ROOT / "constraints.txt").read_text()


def roots_imported(path: Path) -> set[str]:
    return set(re.findall(r"^\s*(?:from|import) ([a-z_0-9]+)", path.read_text(), flags=re.MULTILINE))
