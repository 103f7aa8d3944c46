from __future__ import annotations

import pytest

from runyard_contracts.images import is_registry, pin_of, registry_of, repository_of

A, B = f"sha256:{'a' * 64}", f"sha256:{'b' * 64}"


@pytest.mark.parametrize(
    ("image", "registry", "repository"),
    [
        ("python", "docker.io", "python"),
        ("python:3.11-slim", "docker.io", "python"),
        ("team/model:1", "docker.io", "team/model"),
        ("docker.io/library/python:3", "docker.io", "docker.io/library/python"),
        ("ghcr.io/team/model", "ghcr.io", "ghcr.io/team/model"),
        ("GHCR.io/team/model", "ghcr.io", "GHCR.io/team/model"),
        ("localhost/model:1", "localhost", "localhost/model"),
        ("localhost:5000/model", "localhost:5000", "localhost:5000/model"),
        (f"localhost:5000/a/b:1@{A}", "localhost:5000", "localhost:5000/a/b"),
    ],
)
def test_a_name_is_read_as_docker_reads_it(image: str, registry: str, repository: str) -> None:
    assert registry_of(image) == registry
    assert repository_of(image) == repository


@pytest.mark.parametrize(
    ("image", "digests", "pin"),
    [
        ("ghcr.io/a/b:1", [f"ghcr.io/a/c@{B}", f"ghcr.io/a/b@{A}"], f"ghcr.io/a/b@{A}"),
        ("docker.io/library/python:3", [f"python@{A}"], f"python@{A}"),
        ("python", [f"ghcr.io/library/python@{B}"], "id"),
        ("built-here:1", [], "id"),
    ],
)
def test_an_image_is_pinned_by_its_own_registry_or_by_its_id(
    image: str, digests: list[str], pin: str
) -> None:
    assert pin_of(image, "id", digests) == pin


def test_a_registry_is_a_host_maybe_with_a_port() -> None:
    assert all(map(is_registry, ("ghcr.io", "localhost:5000", "10.0.0.1:80", "a")))
    assert not any(map(is_registry, ("", "ghcr.io/team", "GHCR.io", "a b", "a:port", "-a", "a\n")))
