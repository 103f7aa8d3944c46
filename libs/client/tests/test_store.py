from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from runyard.artifact.v1.types_pb2 import PresignedRequest
from runyard_client import store as store_module
from runyard_client.errors import ClientError, LocalError, Unreachable
from runyard_client.store import FilePart, Store
from runyard_core.retry import Backoff


class Bucket(ThreadingHTTPServer):
    """A web server on loopback that keeps what is put, and answers what a test tells it to."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.objects: dict[str, bytes] = {}
        self.seen_headers: list[dict[str, str]] = []
        self.answers: list[tuple[int, str]] = []

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up in the middle is part of the tests."""

    def request(self, method: str, path: str, **headers: str) -> PresignedRequest:
        url = f"http://127.0.0.1:{self.server_port}{path}"
        return PresignedRequest(method=method, url=url, headers=headers)


class Handler(BaseHTTPRequestHandler):
    server: Bucket

    def do_PUT(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.seen_headers.append(dict(self.headers))
        status, text = self.server.answers.pop(0) if self.server.answers else (200, "")
        if status == 200:
            self.server.objects[self.path] = body
        self._answer(status, text.encode(), ETag=f'"{hashlib.md5(body).hexdigest()}"')

    def do_GET(self) -> None:
        status, text = self.server.answers.pop(0) if self.server.answers else (200, "")
        self._answer(status, self.server.objects.get(self.path, b"") if status == 200 else text.encode())

    def _answer(self, status: int, body: bytes, **headers: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(store_module, "_BACKOFF", Backoff(0.001, 0.001, tries_max=4))
    with Bucket() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


async def test_part_of_a_file_is_put_with_its_signed_headers(bucket: Bucket, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    sent: list[int] = []
    with Store() as store:
        request = bucket.request("PUT", "/blob?signature=a%2Fb", **{"x-amz-checksum-sha256": "abc="})
        etag = await store.put(request, FilePart(path, 2, 5), sent.append)
    assert bucket.objects == {"/blob?signature=a%2Fb": b"23456"}
    assert bucket.seen_headers[0]["x-amz-checksum-sha256"] == "abc="
    assert etag == hashlib.md5(b"23456").hexdigest()
    assert sum(sent) == 5


async def test_bytes_that_are_there_already_count_as_put(bucket: Bucket) -> None:
    bucket.answers = [(412, "<Error><Code>PreconditionFailed</Code></Error>")]
    with Store() as store:
        assert await store.put(bucket.request("PUT", "/blob"), b"abc") == ""


async def test_server_error_is_tried_again(bucket: Bucket) -> None:
    bucket.answers = [(503, ""), (500, "")]
    sent: list[int] = []
    with Store() as store:
        await store.put(bucket.request("PUT", "/blob"), b"abc", sent.append)
    assert bucket.objects == {"/blob": b"abc"}
    # What failed tries had sent is taken back.
    assert (sum(sent), len(sent)) == (3, 5)


async def test_file_that_changed_is_named_as_the_cause(bucket: Bucket, tmp_path: Path) -> None:
    bucket.answers = [(400, "<Error><Code>XAmzContentSHA256Mismatch</Code></Error>")]
    with Store() as store:
        with pytest.raises(LocalError) as caught:
            await store.put(bucket.request("PUT", "/blob"), b"abc")
        assert caught.value.reason == "FILE_CHANGED"
        path = tmp_path / "file"
        path.write_bytes(b"abc")
        with pytest.raises(LocalError) as caught:
            await store.put(bucket.request("PUT", "/blob"), FilePart(path, 0, 4))
        assert caught.value.reason == "FILE_CHANGED"


async def test_refusal_of_the_store_keeps_its_code(bucket: Bucket) -> None:
    bucket.answers = [(403, "<Error><Code>AccessDenied</Code></Error>")]
    with Store() as store, pytest.raises(ClientError, match="HTTP 403 AccessDenied"):
        await store.put(bucket.request("PUT", "/blob"), b"abc")


async def test_fetched_file_appears_only_when_its_hash_is_right(bucket: Bucket, tmp_path: Path) -> None:
    bucket.objects["/blob"] = b"abc"
    target = tmp_path / "model.bin"
    with Store() as store:
        with pytest.raises(ClientError) as caught:
            await store.get(bucket.request("GET", "/blob"), target, sha256="0" * 64)
        assert caught.value.reason == "CHECKSUM_MISMATCH"
        assert names_in(tmp_path) == []
        right = hashlib.sha256(b"abc").hexdigest()
        assert await store.get(bucket.request("GET", "/blob"), target, sha256=right) == 3
    assert names_in(tmp_path) == ["model.bin"]
    assert target.read_bytes() == b"abc"


async def test_missing_bytes_are_not_found(bucket: Bucket, tmp_path: Path) -> None:
    bucket.answers = [(404, "")]
    with Store() as store, pytest.raises(ClientError) as caught:
        await store.get(bucket.request("GET", "/blob"), tmp_path / "x", sha256="0" * 64)
    assert caught.value.code == "NOT_FOUND"
    assert names_in(tmp_path) == []


async def test_store_that_does_not_answer_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_BACKOFF", Backoff(0.001, 0.001, tries_max=4))
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    request = PresignedRequest(method="PUT", url=f"http://127.0.0.1:{port}/blob")
    with Store() as store, pytest.raises(Unreachable) as caught:
        await store.put(request, b"abc")
    assert caught.value.reason == "STORE_UNREACHABLE"


async def test_full_disk_is_not_the_stores_fault(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_from: Path, _to: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", refuse)
    bucket.objects["/blob"] = b"abc"
    request = bucket.request("GET", "/blob")
    with Store() as store, pytest.raises(LocalError, match="No space left") as caught:
        await store.get(request, tmp_path / "x", sha256=hashlib.sha256(b"abc").hexdigest())
    assert caught.value.reason == "FILE_UNWRITABLE"
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("method", ["GET", "PUT"])
async def test_who_leaves_does_not_wait_for_bytes_under_way(
    method: str, bucket: Bucket, tmp_path: Path
) -> None:
    content = bytes(4 << 20)
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(content)
    bucket.objects["/blob"] = content
    loop, began, has_left = asyncio.get_running_loop(), asyncio.Event(), threading.Event()
    counts: list[int] = []

    def on_bytes(count: int) -> None:
        counts.append(count)
        loop.call_soon_threadsafe(began.set)
        assert has_left.wait(30)

    request = bucket.request(method, "/blob")
    store = Store()

    async def moved() -> None:
        with store:
            if method == "GET":
                sha256 = hashlib.sha256(content).hexdigest()
                await store.get(request, target, sha256=sha256, on_bytes=on_bytes)
            else:
                await store.put(request, FilePart(source, 0, len(content)), on_bytes)

    task = asyncio.ensure_future(moved())
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    has_left.set()
    store._executor.shutdown(wait=True)
    assert sum(counts) < len(content)
    assert names_in(tmp_path) == ["source"]


async def test_file_that_cannot_be_read_is_not_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    with Store() as store, pytest.raises(LocalError) as caught:
        await store.put(bucket.request("PUT", "/blob"), FilePart(tmp_path / "none", 0, 1))
    assert caught.value.reason == "FILE_UNREADABLE"
