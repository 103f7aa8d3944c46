"""Transfers against an HTTP server that cuts, refuses and redirects."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from runyard_agent.http_connections import CHUNK_BYTES, Request, RequestRefused
from runyard_agent.refusals import pause_asked
from runyard_agent.transfers import Transfers
from runyard_core.errors import Corrupt, ResourceExhausted, Unavailable

from .store_double import HASTE, HASTE_TRIES, Yard, serving, sha256_of

pytestmark = pytest.mark.system

DATA = os.urandom(3_000_000)


@pytest.fixture
async def yard(tmp_path: Path) -> AsyncIterator[Yard]:
    async with serving(tmp_path) as yard:
        yard.store.objects["/data"] = DATA
        yield yard


def get_of(yard: Yard, path: str = "/data") -> Request:
    return Request("GET", yard.store.address + path)


async def test_a_download_is_hashed_while_it_is_read(yard: Yard, tmp_path: Path) -> None:
    fetched = await yard.transfers.get(get_of(yard), tmp_path / "file", sha256=sha256_of(DATA))

    assert (fetched.sha256, fetched.size_bytes) == (sha256_of(DATA), len(DATA))
    assert (tmp_path / "file").read_bytes() == DATA


async def test_a_cut_download_goes_on_where_it_broke_off(yard: Yard, tmp_path: Path) -> None:
    yard.store.cuts = [1_500_000, 700_000]

    fetched = await yard.transfers.get(get_of(yard), tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == DATA
    assert fetched.sha256 == sha256_of(DATA)
    ranges = [headers.get("Range") for _, _, headers in yard.store.requests]
    assert ranges == [None, "bytes=1500000-", "bytes=2200000-"]


async def test_a_large_download_may_be_cut_as_often_as_it_comes_further(yard: Yard, tmp_path: Path) -> None:
    piece = CHUNK_BYTES + 1
    data = os.urandom(3 * HASTE_TRIES * piece)
    yard.store.objects["/large"] = data
    yard.store.cuts = [piece] * 2 * HASTE_TRIES

    fetched = await yard.transfers.get(get_of(yard, "/large"), tmp_path / "file")
    assert (fetched.sha256, fetched.size_bytes) == (sha256_of(data), len(data))

    yard.store.cuts = [piece, piece, *[1000] * 2 * HASTE_TRIES]
    with pytest.raises(Unavailable, match="cut off after"):
        await yard.transfers.get(get_of(yard, "/large"), tmp_path / "file")


async def test_a_file_that_changed_between_two_tries_is_read_from_the_start(
    yard: Yard, tmp_path: Path
) -> None:
    yard.store.cuts = [1000]
    yard.store.has_etags = False

    await yard.transfers.get(get_of(yard), tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == DATA
    assert all("Range" not in headers for _, _, headers in yard.store.requests)


async def test_wrong_bytes_are_refused_and_leave_no_file(yard: Yard, tmp_path: Path) -> None:
    with pytest.raises(Corrupt, match="want 0000"):
        await yard.transfers.get(get_of(yard), tmp_path / "file", sha256="0" * 64)

    assert not (tmp_path / "file").exists()


async def test_server_errors_are_tried_again_and_refusals_are_not(yard: Yard, tmp_path: Path) -> None:
    yard.store.statuses = [503, 429, 500]
    await yard.transfers.get(get_of(yard), tmp_path / "file")
    assert len(yard.store.requests) == 4

    with pytest.raises(RequestRefused, match="answered 404") as refused:
        await yard.transfers.get(get_of(yard, "/missing?signature=secret"), tmp_path / "file")
    assert refused.value.status == 404
    assert "secret" not in str(refused.value)
    assert len(yard.store.requests) == 5


@pytest.mark.parametrize(
    ("method", "status"), [("GET", "404 Not Found"), ("GET", "302 Found"), ("PUT", "400 Bad Request")]
)
async def test_of_a_page_that_says_no_only_its_beginning_is_read(
    method: str, status: str, tmp_path: Path
) -> None:
    page = memoryview(bytes(CHUNK_BYTES))
    sent: list[int] = []
    answering: list[asyncio.Task[None] | None] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answering.append(asyncio.current_task())
        await reader.readuntil(b"\r\n\r\n")
        writer.write(f"HTTP/1.1 {status}\r\nLocation: /again\r\n\r\n".encode())
        with contextlib.suppress(ConnectionError):
            for _ in range(100):
                writer.write(page)
                await writer.drain()
                sent.append(len(page))
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    transfers = Transfers(backoff=HASTE)
    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        request = Request(method, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
        with (tmp_path / "none").open("wb+") as file, pytest.raises(RequestRefused):
            await (
                transfers.get(request, tmp_path / "file")
                if method == "GET"
                else transfers.put(request, file.fileno(), offset_bytes=0, size_bytes=0)
            )
        transfers.close()
        await asyncio.gather(*(task for task in answering if task is not None))
    # What the sockets hold is on its way all the same.
    assert sum(sent) < 50 * CHUNK_BYTES


@pytest.mark.parametrize(
    ("retry_after", "seconds"),
    [
        *(("", 0), ("0", 0), ("7", 7), ("3600", 60), ("9" * 400, 60), ("-1", 0), ("soon", 0), ("²", 0)),
        ("Mon, 23 Nov 2026 20:00:09 GMT", 9),
        ("Mon, 23 Nov 2026 19:59:09 GMT", 0),
        ("Mon, 99 Nov 2026 19:59:09 GMT", 0),
    ],
)
def test_a_server_may_ask_for_a_pause_of_up_to_a_minute(retry_after: str, seconds: float) -> None:
    assert pause_asked(retry_after, datetime(2026, 11, 23, 20, tzinfo=UTC).timestamp()) == seconds


async def test_who_is_asked_for_a_pause_makes_it(yard: Yard, tmp_path: Path) -> None:
    yard.store.statuses, yard.store.retry_after = [429], "30"
    transfers = Transfers(backoff=replace(HASTE, tries_max=1))
    with pytest.raises(Unavailable, match="429") as error:
        await transfers.get(get_of(yard), tmp_path / "file")
    assert error.value.pause_seconds_min == 30
    transfers.close()


async def test_a_server_that_never_answers_well_is_given_up(yard: Yard, tmp_path: Path) -> None:
    yard.store.statuses = [503] * 100

    with pytest.raises(Unavailable, match="503"):
        await yard.transfers.get(get_of(yard), tmp_path / "file")

    assert len(yard.store.requests) == HASTE_TRIES


async def test_a_dead_address_is_unavailable(tmp_path: Path) -> None:
    transfers = Transfers(backoff=HASTE)
    with pytest.raises(Unavailable, match="ConnectionRefusedError"):
        await transfers.get(Request("GET", "http://127.0.0.1:1/x"), tmp_path / "file")
    transfers.close()


async def test_redirects_are_followed_without_the_headers_of_the_first_request(
    yard: Yard, tmp_path: Path
) -> None:
    yard.store.redirects = {"/old": "/data", "/loop": "/loop"}

    request = Request("GET", yard.store.address + "/old", {"Authorization": "secret"})
    await yard.transfers.get(request, tmp_path / "file")

    assert (tmp_path / "file").read_bytes() == DATA
    assert [headers.get("Authorization") for _, _, headers in yard.store.requests] == ["secret", None]
    with pytest.raises(RequestRefused, match="redirects"):
        await yard.transfers.get(get_of(yard, "/loop"), tmp_path / "other")


async def test_a_redirect_to_nowhere_is_told_in_the_words_of_who_sent_it(yard: Yard, tmp_path: Path) -> None:
    # As S3 answers who asks for a bucket of another region.
    yard.store.statuses = [301]

    with pytest.raises(RequestRefused, match="answered 301 Moved Permanently: told to") as refused:
        await yard.transfers.get(get_of(yard), tmp_path / "file")
    assert refused.value.status == 301
    assert len(yard.store.requests) == 1


async def test_other_schemes_are_refused(yard: Yard, tmp_path: Path) -> None:
    with pytest.raises(RequestRefused, match="not an http"):
        await yard.transfers.get(Request("GET", "ftp://127.0.0.1/x"), tmp_path / "file")


async def test_a_folder_that_cannot_be_written_is_said_so(yard: Yard, tmp_path: Path) -> None:
    with pytest.raises(ResourceExhausted, match="cannot write") as error:
        await yard.transfers.get(get_of(yard), tmp_path / "missing" / "file")
    assert error.value.code == "DISK_UNAVAILABLE"


async def test_a_cut_download_does_not_go_on_after_bytes_that_are_not_on_disk(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    data = os.urandom(CHUNK_BYTES * 2)
    sha256 = yard.store.put(data)
    yard.store.cuts = [CHUNK_BYTES + 10]
    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ResourceExhausted) as error:
        await yard.transfers.get(Request("GET", f"{yard.store.address}/blobs/{sha256}"), tmp_path / "file")
    assert error.value.code == "DISK_UNAVAILABLE"
    assert [method for method, _, _ in yard.store.requests] == ["GET"]
    assert not (tmp_path / "file").exists()


async def test_a_part_of_a_file_is_sent_with_exactly_the_headers_given(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    request = Request("PUT", yard.store.address + "/object?x=%2F", {"X-Signed": "a  b"})
    with (tmp_path / "file").open("rb") as file:
        etag = await yard.transfers.put(request, file.fileno(), offset_bytes=2, size_bytes=5)

    assert yard.store.objects["/object"] == b"23456"
    assert etag == f'"{sha256_of(b"23456")[:8]}"'
    assert yard.store.requests[-1][2]["X-Signed"] == "a  b"


async def test_connections_are_kept_and_many_transfers_share_them(yard: Yard, tmp_path: Path) -> None:
    for index in range(3):
        await yard.transfers.get(get_of(yard), tmp_path / f"file{index}")
    idle = [connection for kept in yard.transfers._connections._idle.values() for connection in kept]
    assert len(idle) == 1

    yard.store.statuses = [500]
    async with asyncio.TaskGroup() as group:
        for index in range(12):
            group.create_task(yard.transfers.get(get_of(yard), tmp_path / f"many{index}"))
    idle = [connection for kept in yard.transfers._connections._idle.values() for connection in kept]
    assert 1 <= len(idle) <= 4


async def test_a_file_that_became_shorter_is_not_sent(yard: Yard, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"short")
    with (tmp_path / "file").open("rb") as file, pytest.raises(Corrupt) as error:
        await yard.transfers.put(
            Request("PUT", yard.store.address + "/object"), file.fileno(), offset_bytes=0, size_bytes=50
        )
    assert error.value.code == "FILE_CHANGED"
    assert "/object" not in yard.store.objects


async def test_more_than_a_socket_takes_at_once_arrives_whole(yard: Yard, tmp_path: Path) -> None:
    data = os.urandom(1 << 20) * 20
    (tmp_path / "file").write_bytes(data)
    request = Request("PUT", yard.store.address + "/object")
    with (tmp_path / "file").open("rb") as file:
        await yard.transfers.put(request, file.fileno(), offset_bytes=1000, size_bytes=len(data) - 1000)
    assert sha256_of(yard.store.objects["/object"]) == sha256_of(data[1000:])


async def test_a_file_system_that_cannot_send_by_itself_is_read(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_: int) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(os, "sendfile", cannot)
    (tmp_path / "file").write_bytes(DATA)
    request = Request("PUT", yard.store.address + "/object")
    with (tmp_path / "file").open("rb") as file:
        await yard.transfers.put(request, file.fileno(), offset_bytes=0, size_bytes=len(DATA))
    assert yard.store.objects["/object"] == DATA


async def test_a_server_that_takes_nothing_more_is_unavailable(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(1 << 20) * 20)
    with socket.create_server(("127.0.0.1", 0)) as deaf, (tmp_path / "file").open("rb") as file:
        transfers = Transfers(stall_seconds_max=0.05, backoff=HASTE)
        request = Request("PUT", f"http://127.0.0.1:{deaf.getsockname()[1]}/object")
        with pytest.raises(Unavailable, match="takes nothing more"):
            await transfers.put(request, file.fileno(), offset_bytes=0, size_bytes=20 << 20)
        transfers.close()


async def test_a_cancelled_upload_ends_with_what_the_socket_holds(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file, socket.create_server(("127.0.0.1", 0)) as server:
        file.truncate(1 << 40)
        transfers = Transfers(thread_count=1, backoff=HASTE)
        request = Request("PUT", f"http://127.0.0.1:{server.getsockname()[1]}/object")
        upload = asyncio.ensure_future(transfers.put_once(request, file.fileno(), 1 << 40))
        reader, _ = await asyncio.get_running_loop().run_in_executor(None, server.accept)
        upload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await upload
        with reader:
            reader.settimeout(60)
            # Until the other side hangs up.
            while await asyncio.to_thread(reader.recv, 1 << 20):
                pass
        transfers.close()


async def test_nothing_waits_for_the_end_of_whole_files(yard: Yard, tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb+") as file, socket.create_server(("127.0.0.1", 0)) as deaf:
        file.truncate(1 << 30)
        transfers = Transfers(thread_count=1, backoff=HASTE)
        request = Request("PUT", f"http://127.0.0.1:{deaf.getsockname()[1]}/object")
        uploads = [
            asyncio.ensure_future(transfers.put_once(request, file.fileno(), 1 << 30)) for _ in range(5)
        ]
        assert (await transfers.get(get_of(yard), tmp_path / "fetched")).size_bytes == len(DATA)
        for upload in uploads:
            upload.cancel()
        await asyncio.wait(uploads)
        transfers.close()


async def test_what_is_sent_once_has_a_connection_of_its_own_and_no_second_try(
    yard: Yard, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    await yard.transfers.get(get_of(yard), tmp_path / "kept")
    yard.store.statuses = [503]
    request = Request("PUT", yard.store.address + "/object")
    with (tmp_path / "file").open("rb") as file:
        with pytest.raises(Unavailable, match="503"):
            await yard.transfers.put_once(request, file.fileno(), 10)
        await yard.transfers.put_once(request, file.fileno(), 10)
    assert yard.store.objects["/object"] == b"0123456789"
    idle = [connection for kept in yard.transfers._connections._idle.values() for connection in kept]
    assert len(idle) == 3


async def test_a_cancelled_download_leaves_no_file(yard: Yard, tmp_path: Path) -> None:
    yard.store.objects["/large"] = bytes(64 << 20)
    download = asyncio.ensure_future(yard.transfers.get(get_of(yard, "/large"), tmp_path / "file"))
    while not (tmp_path / "file").exists():
        assert not download.done()
        await asyncio.sleep(0)
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download
    assert not (tmp_path / "file").exists()
