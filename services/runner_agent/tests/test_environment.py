"""Virtual environments: shared, private on top, and safe from each other; with real processes."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from runyard_agent import environment
from runyard_agent.environment import EnvironmentRequest, PreparedEnvironment
from runyard_agent.environment.builder import BuildFailed, find_uv, without_places
from runyard_agent.environment.image_probe import read_image
from runyard_agent.environment.record import is_secret
from runyard_agent.environment.requirements import read_requirements
from runyard_core.errors import Unavailable

# Each takes seconds of the processor: not part of the quick tests.
building = pytest.mark.engines


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give one cache for the session: its empty environment takes seconds to build."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    folder.mkdir()
    return folder


def request_of(repository: Path, name: str = "venv", requirements_path: str = "") -> EnvironmentRequest:
    return EnvironmentRequest(
        repository=repository,
        private_dir=repository.parent / name,
        requirements_path=requirements_path,
        variables={"PIP_NO_INDEX": "1", "UV_NO_INDEX": "1", "PIP_FIND_LINKS": "", "UV_FIND_LINKS": ""},
    )


def run_in(prepared: PreparedEnvironment, program: str) -> str:
    done = subprocess.run(
        [str(prepared.interpreter), "-c", program], capture_output=True, text=True, check=True, timeout=30
    )
    return done.stdout.strip()


def make_package(folder: Path, name: str, version: str) -> None:
    """Write a package that pip installs without a build backend from the network: a wheel."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"version = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"{name}.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, content in files.items():
            wheel.writestr(path, content)


@building
async def test_what_is_installed_from_elsewhere_is_another_environment(
    repository: Path, cache_dir: Path, tmp_path: Path
) -> None:
    """The same requirements mean other packages where a run names another index."""
    (repository / "requirements.txt").write_text("of_an_index\n", encoding="utf-8")
    found = []
    for version in ("1.0", "2.0"):
        make_package(tmp_path / version, "of_an_index", version)
        request = request_of(repository, f"venv-{version}", "requirements.txt")
        places = {"PIP_FIND_LINKS": str(tmp_path / version), "UV_FIND_LINKS": str(tmp_path / version)}
        asked = dataclasses.replace(request, variables={**request.variables, **places, "SEED": version})
        prepared = await environment.prepare(asked, cache_dir)
        found.append(run_in(prepared, "import of_an_index; print(of_an_index.version)"))

    assert found == ["1.0", "2.0"]


@building
async def test_no_requirements_give_an_empty_environment_that_is_not_the_agents(
    repository: Path, cache_dir: Path
) -> None:
    prepared = await environment.prepare(request_of(repository), cache_dir)

    assert run_in(prepared, "import sys; print(sys.prefix)") == str(repository.parent / "venv")
    assert run_in(prepared, "import importlib.util as u; print(u.find_spec('grpc'))") == "None"
    assert run_in(prepared, "import pip; print('yes')") == "yes"
    assert prepared.requirements_sha256 == ""
    assert prepared.contents.interpreter.startswith("CPython 3.")
    assert "pip" in {package.name for package in prepared.contents.packages}
    assert prepared.contents.kernel == os.uname().release


@building
async def test_the_second_attempt_finds_the_environment_cached(repository: Path, cache_dir: Path) -> None:
    await environment.prepare(request_of(repository, "one"), cache_dir)
    two = await environment.prepare(request_of(repository, "two"), cache_dir)

    assert two.cached
    again = await environment.prepare(request_of(repository, "two"), cache_dir)
    assert again == two


@building
async def test_what_an_attempt_installs_is_its_own(repository: Path, cache_dir: Path, tmp_path: Path) -> None:
    make_package(tmp_path / "wheels", "tinypackage", "1.0")
    one = await environment.prepare(request_of(repository, "one"), cache_dir)
    two = await environment.prepare(request_of(repository, "two"), cache_dir)

    install = [
        str(one.venv / "bin/pip"),
        "install",
        "--no-index",
        "-f",
        str(tmp_path / "wheels"),
        "tinypackage",
    ]
    subprocess.run(  # noqa: ASYNC221 - nothing else is going on
        install, check=True, capture_output=True, timeout=60, env={"PATH": os.environ["PATH"]}
    )

    assert run_in(one, "import tinypackage; print(tinypackage.version)") == "1.0"
    find = "import importlib.util as u; print(u.find_spec('tinypackage'))"
    assert run_in(two, find) == "None"
    three = await environment.prepare(request_of(repository, "three"), cache_dir)
    assert three.cached
    assert run_in(three, find) == "None"


@building
async def test_requirements_are_installed_and_recorded(repository: Path, tmp_path: Path) -> None:
    make_package(repository / "wheels", "tinypackage", "1.0")
    (repository / "base.txt").write_text("tinypackage==1.0\n")
    (repository / "requirements.txt").write_text("--no-index\n--find-links wheels\n-r base.txt\n")
    told: list[str] = []

    prepared = await environment.prepare(
        request_of(repository, requirements_path="requirements.txt"), tmp_path / "cache", tell=told.append
    )

    assert run_in(prepared, "import tinypackage; print(tinypackage.version)") == "1.0"
    versions = {package.name: package.version for package in prepared.contents.packages}
    assert versions["tinypackage"] == "1.0"
    (sentence,) = told
    assert sentence.startswith("environment built in ")
    assert sentence.endswith(f": {len(versions)} packages")
    record = environment.capture(prepared, {"MODE": "fast", "API_TOKEN": "secret"})
    assert record.requirements_sha256 == prepared.requirements_sha256 != ""
    assert {variable.name: variable.value for variable in record.variables} == {
        "MODE": "fast",
        "API_TOKEN": "",
    }
    assert b"secret" not in record.SerializeToString()


@building
@pytest.mark.parametrize("has_uv", [True, False])
async def test_an_installer_that_fails_is_quoted(
    repository: Path, cache_dir: Path, tmp_path: Path, has_uv: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    uv = find_uv() or shutil.which("uv", path=str(Path(__file__).parents[3] / ".tools/bin"))
    if has_uv and uv is None:
        pytest.skip("uv is not on this machine")
    monkeypatch.setattr(
        "runyard_agent.environment.builder.find_uv", lambda: Path(str(uv)) if has_uv else None
    )
    (repository / "requirements.txt").write_text("--no-index\nno-such-package==9\n")
    cache = tmp_path / "cache"

    with pytest.raises(Unavailable, match="no-such-package") as error:
        await environment.prepare(request_of(repository, requirements_path="requirements.txt"), cache)

    assert error.value.code == "ENVIRONMENT_UNAVAILABLE"
    assert str(tmp_path) not in error.value.message
    assert [path for path in (cache / "environments").iterdir() if path.is_dir()] == []


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("Looking in indexes: https://user:word@index.example/simple", "Looking in indexes: .../simple"),
        ("  Cloning https://git.example/team/tool.git (to x)", "  Cloning .../tool.git (to x)"),
        ("Looking in links: /srv/agent/wheels", "Looking in links: .../wheels"),
        ("error sending request for url (https://index.example/)", "error sending request for url (...)"),
        ("HTTPSConnectionPool(host='index.example', port=443)", "HTTPSConnectionPool(host='...', port=443)"),
        ('  File "/srv/a/b.py", line 3', '  File ".../b.py", line 3'),
        (
            "ERROR: No matching distribution found for a/b==9",
            "ERROR: No matching distribution found for a/b==9",
        ),
        ("file:///srv/a.whl: bad", ".../a.whl: bad"),
        ("1/2 done, and/or 3 MB/s", "1/2 done, and/or 3 MB/s"),
    ],
)
def test_line_of_an_installer_tells_no_places(line: str, told: str) -> None:
    assert without_places(line) == told


@pytest.mark.parametrize(
    ("path", "content", "reason"),
    [
        ("missing.txt", None, "there is no requirements file 'missing.txt'"),
        ("../outside.txt", None, "outside the code snapshot"),
        ("requirements.txt", "-r ../outside.txt\n", "'../outside.txt' is outside"),
        ("requirements.txt", "-c gone.txt\n", "there is no requirements file 'gone.txt'"),
    ],
)
async def test_requirements_must_be_in_the_snapshot(
    repository: Path, cache_dir: Path, path: str, content: str | None, reason: str
) -> None:
    (repository.parent / "outside.txt").write_text("x\n")
    if content is not None:
        (repository / path).write_text(content)

    with pytest.raises(Unavailable, match=reason) as error:
        await environment.prepare(request_of(repository, requirements_path=path), cache_dir)

    assert error.value.code == "ENVIRONMENT_UNAVAILABLE"


def test_what_is_installed_from_the_repository_is_not_shared(repository: Path) -> None:
    lines = {
        "torch==2.9": True,
        "-r more.txt": True,
        "./package": False,
        "-e .": False,
        "name @ file:///x": False,
        "wheels/a-1.0-py3-none-any.whl": False,
        "--extra-index-url https://host/simple": True,
    }
    (repository / "more.txt").write_text("numpy\n")
    for line, is_shareable in lines.items():
        (repository / "requirements.txt").write_text(f"# comment\n{line}\n")
        assert read_requirements(repository, "requirements.txt").is_shareable is is_shareable, line


def test_a_changed_include_changes_the_environment(repository: Path) -> None:
    (repository / "requirements.txt").write_text("-r more.txt\n")
    (repository / "more.txt").write_text("numpy==1\n")
    before = read_requirements(repository, "requirements.txt")
    (repository / "more.txt").write_text("numpy==2\n")
    after = read_requirements(repository, "requirements.txt")

    assert before.sha256 == after.sha256
    assert before.closure_sha256 != after.closure_sha256


@pytest.mark.parametrize(
    ("name", "value", "is_hidden"),
    [
        ("HF_TOKEN", "x", True),
        ("AWS_SECRET_ACCESS_KEY", "x", True),
        ("dbPassword", "x", True),
        ("MYAPIKEY", "x", False),
        ("API_KEY", "x", True),
        ("TOKENIZERS_PARALLELISM", "false", False),
        ("PATH", "/usr/bin", False),
        ("PYTHONHASHSEED", "0", False),
        ("DATABASE_URL", "postgresql://user:word@host/db", True),
        ("DATABASE_URL", "postgresql://host/db", False),
        ("ANYTHING", "AKIAIOSFODNN7EXAMPLE", True),
        ("ANYTHING", "hf_abcdefghijklmnopqrst", True),
        ("VH_JOB_ID", "exec-0198", False),
    ],
)
def test_secrets_are_known_by_name_or_form(name: str, value: str, is_hidden: bool) -> None:
    assert is_secret(name, value) is is_hidden


def test_the_probe_runs_alone_and_prints_one_line() -> None:
    done = subprocess.run(
        [sys.executable, "-I", "-c", environment.PROBE_SOURCE],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )

    assert done.stdout.count("\n") == 1
    found = environment.read_probe(done.stdout)
    assert {"protobuf", "docker"} <= {package.name for package in found.packages}
    assert found.interpreter == f"CPython {sys.version.split()[0]}"
    with pytest.raises(ValueError, match="not what the probe prints"):
        environment.read_probe(json.dumps({"interpreter": "x"}))


@building
async def test_a_package_of_the_index_is_installed(repository: Path, tmp_path: Path) -> None:
    """Needs the package index that this machine is set up with."""
    (repository / "requirements.txt").write_text("iniconfig==2.1.0\n")
    request = EnvironmentRequest(repository, repository.parent / "venv", "requirements.txt")

    prepared = await environment.prepare(request, tmp_path / "cache")

    assert run_in(prepared, "import iniconfig; print(iniconfig.__name__)") == "iniconfig"


async def test_a_cancelled_build_leaves_nothing(repository: Path, tmp_path: Path) -> None:
    building = asyncio.ensure_future(environment.prepare(request_of(repository), tmp_path / "cache"))
    folder = tmp_path / "cache/environments"
    async with asyncio.timeout(20):
        while not [path for path in folder.glob("*-*") if path.is_dir()]:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    building.cancel()
    with pytest.raises(asyncio.CancelledError):
        await building

    assert [path for path in folder.iterdir() if path.is_dir()] == []


def test_build_failed_carries_its_code() -> None:
    assert BuildFailed("x").code == "ENVIRONMENT_UNAVAILABLE"


def test_what_an_image_tells_is_read_and_nothing_else_is() -> None:
    python = json.dumps(
        {
            "interpreter": "CPython 3.12.1",
            "interpreter_path": "/usr/bin/python3",
            "os": "Debian",
            "kernel": "6",
        }
        | {"packages": [["torch", "2.4"]], "cuda_version": "12.1", "nccl_version": ""}
    )
    printed = (
        f"{python}\nshell\t/bin/bash\nos\tother\ndeb\tlibc6\t2.36\tii \ndeb\tgone\t1\trc \nnccl\t2.20.5\n"
    )
    found = read_image(printed, {"CUDA_VERSION": "11", "NCCL_VERSION": "1"})
    assert [(each.name, each.version, each.kind) for each in found.packages] == [
        ("torch", "2.4", ""),
        ("libc6", "2.36", "deb"),
    ]
    assert (found.os, found.cuda_version, found.nccl_version) == ("Debian", "12.1", "2.20.5")
    assert read_image("shell\t/bin/sh\n", {"CUDA_VERSION": "11"}).cuda_version == "11"
    for other in ("", "{}", "exec format error\n"):
        with pytest.raises(ValueError, match="not what the probe prints"):
            read_image(other, {})
