"""Names of container images, read as Docker reads them: which registry, which repository, which digest."""

from __future__ import annotations

import re
from collections.abc import Iterable

DOCKER_HUB = "docker.io"
"""The registry of an image whose name says none."""
REGISTRY_SECRET = "registry:"  # noqa: S105 - the beginning of a name
"""What the name of a project's login for a registry begins with."""

_REGISTRY = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,251}[a-z0-9])?(?::[0-9]{1,5})?")


def is_registry(text: str) -> bool:
    """Say whether a text is the host of a registry, maybe with a port."""
    return _REGISTRY.fullmatch(text) is not None


def registry_of(image: str) -> str:
    """Give the registry that an image comes from: "ghcr.io", "localhost:5000"."""
    host, slash, _ = image.partition("/")
    # A first part without these is the folder of somebody on Docker's own registry.
    if not slash or not ("." in host or ":" in host or host == "localhost"):
        return DOCKER_HUB
    return DOCKER_HUB if host in {"index.docker.io", "registry-1.docker.io"} else host.lower()


def repository_of(image: str) -> str:
    """Give the name of an image without tag and digest."""
    name = image.partition("@")[0]
    repository, colon, tag = name.rpartition(":")
    # A colon in front of a slash is that of a port.
    return repository if colon and "/" not in tag else name


def pin_of(image: str, image_id: str, repo_digests: Iterable[str]) -> str:
    """Give a name that means this very image for ever: "name@sha256:..." of its own registry.

    Without one, as for an image that was built where it runs, its id: only a machine that has it knows that.
    """
    own = (registry_of(image), _path_of(image))
    for digest in repo_digests:
        if (registry_of(digest), _path_of(digest)) == own:
            return digest
    return image_id


def _path_of(image: str) -> str:
    """Give the repository below its registry, as the registry itself calls it."""
    repository, registry = repository_of(image), registry_of(image)
    host, slash, rest = repository.partition("/")
    has_host = bool(slash) and ("." in host or ":" in host or host == "localhost")
    path = rest if has_host else repository
    return f"library/{path}" if registry == DOCKER_HUB and "/" not in path else path
