"""Prints what an interpreter finds, as one line of JSON; run by ``python -I -c``, also in images.

Only the standard library, and nothing newer than Python 3.8: images bring their own interpreters.
"""

import glob
import json
import os
import platform
import re
import sys


def main() -> None:
    """Print the line."""
    packages = _packages()
    found = {
        "interpreter": f"{platform.python_implementation()} {platform.python_version()}",
        "interpreter_path": os.path.realpath(sys.executable),
        "os": _operating_system(),
        "kernel": platform.release(),
        "packages": sorted(packages.items()),
        "cuda_version": _cuda_version(packages),
        "nccl_version": _nccl_version(packages),
    }
    sys.stdout.write(json.dumps(found) + "\n")


def _packages() -> "dict[str, str]":
    try:
        from importlib import metadata
    except ImportError:  # Python 3.7 and older
        return {}
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        # The first on the path is the one that is imported.
        if name and name not in found:
            found[name] = distribution.version or ""
    return found


def _operating_system() -> str:
    try:
        with open("/etc/os-release", encoding="utf-8") as file:
            for line in file:
                if line.startswith("PRETTY_NAME="):
                    return line.partition("=")[2].strip().strip("\"'")
    except OSError:
        pass
    return platform.system()


def _cuda_version(packages: "dict[str, str]") -> str:
    for name, version in sorted(packages.items()):
        if re.fullmatch(r"nvidia-cuda-runtime(-cu\d+)?", name):
            return version
    try:
        with open("/usr/local/cuda/version.json", encoding="utf-8") as file:
            return str(json.load(file)["cuda"]["version"])
    except (OSError, ValueError, KeyError, TypeError):
        return os.environ.get("CUDA_VERSION", "")


def _nccl_version(packages: "dict[str, str]") -> str:
    for name, version in sorted(packages.items()):
        if re.fullmatch(r"nvidia-nccl(-cu\d+)?", name):
            return version
    for path in sorted(
        glob.glob("/usr/lib/*-linux-gnu/libnccl.so.*.*.*") + glob.glob("/usr/lib64/libnccl.so.*.*.*")
    ):
        return path.partition(".so.")[2]
    return os.environ.get("NCCL_VERSION", "")


if __name__ == "__main__":
    main()
