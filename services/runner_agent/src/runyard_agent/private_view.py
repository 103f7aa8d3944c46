"""Gives one program its own view of the file system, with the run contract's folders at their real paths.

Run as ``python -I -S private_view.py ATTEMPT_DIRECTORY [--show SOURCE TARGET]...
[--mount KIND SOURCE OPTIONS TARGET]... COMMAND...`` by ``runtime_process``; it becomes COMMAND. Like the shim
it imports the standard library only. In the view, everything is where the machine has it, and
``/valohai/{repository,inputs,outputs,config}`` are the attempt's folders. The view is a mount namespace: what
is mounted in it reaches nobody else, and is gone with the last process that lives in it.

Root needs nothing more. Anybody else gets a user namespace too, in which he is who he was; a new, small root
folder takes the place of the machine's, because in that one he may not make ``/valohai``.
"""

from __future__ import annotations

import ctypes
import os
import sys

CONTRACT_ROOT = "/valohai"
SHOW, MOUNT = "--show", "--mount"
FOLDERS = ("repository", "inputs", "outputs", "config")
PROGRAMS_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"
"""Where the programs of the machine are that mount."""

_CLONE_NEWNS = 0x00020000
_CLONE_NEWUSER = 0x10000000
_MS_NOSUID = 2
_MS_NODEV = 4
_MS_RDONLY = 1
_MS_NOEXEC = 8
_MS_REMOUNT = 32
_MS_NOATIME = 1024
_MS_NODIRATIME = 2048
_MS_RELATIME = 1 << 21
_ST_RELATIME = 4096
_MS_BIND = 4096
_MS_REC = 16384
_MS_SLAVE = 1 << 19
_MNT_DETACH = 2
# It holds mount points; a program that writes to "/" itself meets its end here and not the machine's memory.
_ROOT_OPTIONS = "mode=755,size=16m"
_OLD_ROOT = ".machine"

_libc = ctypes.CDLL(None, use_errno=True)


def main(attempt_directory: str, command: list[str]) -> int:
    """Enter the view and become the command; gives 1, the reason on standard error, when it cannot."""
    shown, mounted = [], []
    while command[0] in {SHOW, MOUNT}:
        if command[0] == SHOW:
            _, source, target, *command = command
            shown.append((source, target))
        else:
            _, kind, source, options, target, *command = command
            mounted.append((kind, source, options, target))
    try:
        enter(os.path.realpath(attempt_directory), shown)
        for kind, source, options, target in mounted:
            _mount_file_system(kind, source, options, target)
        os.execv(command[0], command)  # noqa: S606
    except OSError as error:
        sys.stderr.write(f"no private view of the file system: {error}\n")
    return 1


def enter(attempt_directory: str, shown: list[tuple[str, str]]) -> None:
    """Put this process into a view of its own; the folder's name is absolute and without symlinks.

    ``shown`` are folders of the machine that are seen read-only at other places: real path, and where.

    Raises:
        OSError: this machine does not allow it; the process must end then, it is halfway in.
    """
    _leave_the_machines_namespaces()
    # What the machine mounts and unmounts later is seen in here; nothing that is done in here is seen there.
    _mount(None, "/", None, _MS_REC | _MS_SLAVE)
    _take_a_new_root(attempt_directory)
    old = f"/{_OLD_ROOT}"
    for entry in os.scandir(old):
        if f"/{entry.name}" != CONTRACT_ROOT:
            _show(entry)
    os.mkdir(CONTRACT_ROOT)
    os.chmod(CONTRACT_ROOT, 0o755)  # noqa: S103 - whatever the umask is
    for name in FOLDERS:
        target = f"{CONTRACT_ROOT}/{name}"
        os.mkdir(target)
        _mount(f"{old}{attempt_directory}/{name}", target, None, _MS_BIND | _MS_REC)
    for source, target in shown:
        _show_read_only(f"{old}{source}", target)
    _call("umount2", old.encode(), _MNT_DETACH)
    os.rmdir(old)


def _leave_the_machines_namespaces() -> None:
    user, group = os.geteuid(), os.getegid()
    if user == 0:
        try:
            _call("unshare", _CLONE_NEWNS)
        except PermissionError:
            # Root of a container, without the right to mount: as anybody else.
            pass
        else:
            return
    _call("unshare", _CLONE_NEWUSER | _CLONE_NEWNS)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _take_a_new_root(mount_point: str) -> None:
    """Make an empty root folder, with the machine's below it; ``mount_point`` is covered only meanwhile."""
    _mount("tmpfs", mount_point, "tmpfs", _MS_NOSUID | _MS_NODEV, _ROOT_OPTIONS)
    os.mkdir(f"{mount_point}/{_OLD_ROOT}", 0o700)
    _call("pivot_root", os.fsencode(mount_point), os.fsencode(f"{mount_point}/{_OLD_ROOT}"))
    os.chdir("/")


def _show(entry: os.DirEntry[str]) -> None:
    """Show one entry of the machine's root folder under its own name."""
    target = f"/{entry.name}"
    if entry.is_symlink():
        os.symlink(os.readlink(entry.path), target)
        return
    if entry.is_dir():
        os.mkdir(target)
    else:
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT, 0o600))
    _mount(entry.path, target, None, _MS_BIND | _MS_REC)


def _mount_file_system(kind: str, source: str, options: str, target: str) -> None:
    """Mount by the machine's own program: it knows what its kernel and the server can agree on."""
    _make_mount_point(target)
    command = ["mount", "-n", "-t", kind, "-o", options, source, target]
    status = os.spawnvpe(os.P_WAIT, command[0], command, {"PATH": PROGRAMS_PATH})  # noqa: S606
    if status != 0:
        raise OSError(f"mount of {source} ended with {status}")


def _make_mount_point(target: str) -> None:
    top = "/" + target.split("/")[1]
    # Missing folders are made in the new root only: below any other they would be made on the machine.
    if not os.path.isdir(target) and not os.path.islink(top) and not os.path.ismount(top):
        os.makedirs(target, exist_ok=True)


def _show_read_only(source: str, target: str) -> None:
    """Show a folder without what is mounted below it, which would not be read-only."""
    _make_mount_point(target)
    _mount(source, target, None, _MS_BIND)
    flags = os.statvfs(target).f_flag
    # What the machine has set on it may not be taken off here.
    kept = flags & (_MS_NOSUID | _MS_NODEV | _MS_NOEXEC | _MS_NOATIME | _MS_NODIRATIME)
    if flags & _ST_RELATIME:
        kept |= _MS_RELATIME
    _mount(None, target, None, _MS_REMOUNT | _MS_BIND | _MS_RDONLY | kept)


def _mount(source: str | None, target: str, kind: str | None, flags: int, options: str = "") -> None:
    _call(
        "mount",
        os.fsencode(source) if source else None,
        os.fsencode(target),
        kind.encode() if kind else None,
        ctypes.c_ulong(flags),
        options.encode() or None,
    )


def _call(name: str, *arguments: object) -> None:
    if getattr(_libc, name)(*arguments) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="ascii") as file:
        file.write(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
