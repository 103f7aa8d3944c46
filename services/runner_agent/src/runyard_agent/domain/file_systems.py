"""File systems of other machines that a step asks to see: which are allowed, and how they are mounted."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from runyard_core.errors import InvalidInput

NFS = "nfs"

_SERVER = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:.]+\]")
_VALUE = re.compile(r"[A-Za-z0-9.]{1,32}")
# What says how to speak to a server. Who may do what with the files is not for a step to say.
_OPTIONS = frozenset(
    (
        *("vers", "nfsvers", "minorversion", "proto", "port", "mountproto", "mountport", "mountvers"),
        *("rsize", "wsize", "timeo", "retrans", "soft", "softerr", "hard", "nolock", "lock", "local_lock"),
        *("ac", "noac", "actimeo", "acregmin", "acregmax", "acdirmin", "acdirmax", "lookupcache"),
        *("nconnect", "max_connect", "noatime", "nodiratime", "relatime", "noresvport", "resvport"),
    )
)
# Nothing on it is written to, is a device, or makes anybody somebody else.
_ALWAYS = ("ro", "nosuid", "nodev")
_TYPES = frozenset({"nfs", "nfs3", "nfs4"})


@dataclass(frozen=True, slots=True)
class FileSystem:
    """Something to mount for one attempt."""

    kind: str
    """As ``mount`` calls it."""
    server: str
    """Empty for one that is on no other machine."""
    path: str
    """On the server."""
    options: str
    destination: str
    """Where the program sees it."""

    @property
    def source(self) -> str:
        """What is mounted: "server:/path"."""
        return f"{self.server}:{self.path}" if self.server else self.path

    @property
    def words(self) -> tuple[str, str, str, str]:
        """What ``private_view`` has to be told."""
        return self.kind, self.source, self.options, self.destination

    def volume(self) -> dict[str, str]:
        """Give the options for Docker's local volumes, which look the server's name up themselves."""
        if not self.server:
            return {"type": self.kind, "device": self.path, "o": self.options}
        return {"type": self.kind, "device": f":{self.path}", "o": f"addr={self.server},{self.options}"}


def nfs_of(
    source: str, destination: str, kind: str, options: Mapping[str, str], exports: Sequence[str]
) -> FileSystem:
    """Give the file system that a step means, if the operator lets runs see it.

    ``exports`` are what runs may see, with everything below: "server:/path".

    Raises:
        InvalidInput: it is no NFS export, not allowed, or has options that are not for a step to set.
    """
    if kind not in _TYPES:
        raise InvalidInput(
            f"file systems of type {kind!r} are not mounted for runs: mount it on the node, and name its "
            "folder in RUNYARD_SHARED_FOLDERS"
        )
    server, path = split_export(source)
    allowed = (split_export(export) for export in exports)
    if not any(server == each and PurePosixPath(path).is_relative_to(root) for each, root in allowed):
        raise InvalidInput(
            "this node does not mount it for runs: have its operator name it in RUNYARD_NFS_EXPORTS, or "
            "mount it on the node and name its folder in RUNYARD_SHARED_FOLDERS"
        )
    said = dict(options)
    if kind != NFS:
        said.setdefault("vers", kind.removeprefix(NFS))
    return FileSystem(NFS, server, path, ",".join((*_ALWAYS, *_checked(said))), destination)


def split_export(text: str) -> tuple[str, str]:
    """Split "server:/path".

    Raises:
        InvalidInput: it is something else.
    """
    server, colon, path = text.rpartition(":/")
    plain = PurePosixPath(f"/{path}")
    if not colon or _SERVER.fullmatch(server) is None or ".." in plain.parts or set(path) & set(",\0\n\\"):
        raise InvalidInput(f"{text!r} is no NFS export; want server:/path")
    return server.lower(), str(plain)


def _checked(options: Mapping[str, str]) -> Iterator[str]:
    for name, value in sorted(options.items()):
        flag = value.lower()
        if name in {"ro", "nosuid", "nodev"} and flag in {"", "true"}:
            continue
        if name not in _OPTIONS or (flag not in {"", "true"} and _VALUE.fullmatch(value) is None):
            raise InvalidInput(f"option {_shown([name, value])} is not for a step to set")
        if flag == "false":
            continue
        yield name if flag in {"", "true"} else f"{name}={value}"


def _shown(parts: Iterable[str]) -> str:
    return repr("=".join(filter(None, parts)))
