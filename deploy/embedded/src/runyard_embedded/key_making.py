"""Makes keys in processes that end: the library for it takes 15 MB."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from runyard_core.errors import Unavailable


async def make_keys(module: str, *paths: Path) -> str:
    """Run ``python -m MODULE PATH ...``, and give what it printed.

    Raises:
        Unavailable: it failed (NO_KEY_MADE).
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *map(str, paths)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaint = await process.communicate()
    if process.returncode:
        raise Unavailable(f"cannot make {paths[-1]}: {complaint.decode().strip()}", code="NO_KEY_MADE")
    return said.decode()
