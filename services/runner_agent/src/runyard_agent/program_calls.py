"""What the program of an attempt may ask of its agent: to show a status line, to hand an input over."""

from __future__ import annotations

import asyncio
import http
import json
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from runyard.agent.v1.agent_service_pb2 import InputFetched
from runyard.run.v1.types_pb2 import Input, InputFile
from runyard_agent import config_files
from runyard_agent.attempt_store import AttemptRecord
from runyard_agent.call_server import Answer, Call, CallServer
from runyard_agent.config_files import input_id
from runyard_agent.content_cache import file_sha256
from runyard_agent.node import Node
from runyard_core.errors import RunyardError, Unavailable

_STATUS_SECONDS = 1.0

Tell = Callable[[str], None]


class ProgramCalls:
    """Answers the calls of one attempt."""

    def __init__(
        self,
        server: CallServer,
        node: Node,
        record: AttemptRecord,
        report_status: Callable[[str], None],
        report_fetched: Callable[[InputFetched], None],
        tell: Tell,
    ) -> None:
        """Answer from now on; the inputs are those that the attempt was prepared with."""
        grant = record.grant
        inputs = record.load_prepared().inputs
        self._server = server
        self._token = record.call_token
        self._on_demand = {input_id(grant, one.name): one for one in inputs if one.on_demand}
        self._sources = node.input_sources(config_files.variables(grant))
        self._folder = record.on_demand_folder
        self._record = record
        self._report_status = report_status
        self._report_fetched = report_fetched
        self._tell = tell
        self._fetching = asyncio.Lock()
        self._status_detail: str | None = None
        self._status_news = asyncio.Event()
        server.serve(self._token, self)

    def close(self) -> None:
        """Answer no more."""
        self._server.end(self._token)
        self._sources.close()

    async def keep_reporting(self, ended: asyncio.Event) -> None:
        """Report the newest status line, at most once a second, until the program has ended."""
        waiting = asyncio.ensure_future(ended.wait())
        try:
            while not ended.is_set():
                news = asyncio.ensure_future(self._status_news.wait())
                await asyncio.wait([news, waiting], return_when=asyncio.FIRST_COMPLETED)
                news.cancel()
                self.report_newest()
                await asyncio.wait([waiting], timeout=_STATUS_SECONDS)
        finally:
            waiting.cancel()

    def report_newest(self) -> None:
        """Report the newest status line, if it was not reported."""
        self._status_news.clear()
        newest, self._status_detail = self._status_detail, None
        if newest is not None:
            self._report_status(newest)

    async def answer(self, call: Call) -> Answer:
        """Answer a call; see ``call_server.Calls``."""
        match (call.method, *call.path):
            case ("POST" | "PUT", "status-detail"):
                return self._set_status_detail(call.body)
            case ("GET", "inputs"):
                return Answer(content=self._addresses(call))
            case ("GET", "files", asked_id, number) if asked_id in self._on_demand and number.isdecimal():
                return await self._hand_over(asked_id, int(number))
            case _:
                return Answer(http.HTTPStatus.NOT_FOUND, {"error": "there is no such call"})

    def _set_status_detail(self, body: bytes) -> Answer:
        try:
            status_detail = json.loads(body)["status_detail"]
        except (ValueError, KeyError, TypeError):
            status_detail = None
        if not isinstance(status_detail, str):
            return Answer(http.HTTPStatus.BAD_REQUEST, {"error": 'want {"status_detail": "..."}'})
        self._status_detail = status_detail.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        self._status_news.set()
        return Answer(content={})

    def _addresses(self, call: Call) -> object:
        return [
            {
                "files": [
                    {
                        "filename": PurePosixPath(file.path).name,
                        "url": f"{call.base_url}/files/{asked_id}/{number}",
                        "input_id": asked_id,
                    }
                    for number, file in enumerate(self._on_demand[asked_id].files)
                ]
            }
            for asked_id in call.query.get("inputs", ())
            if asked_id in self._on_demand
        ]

    async def _hand_over(self, asked_id: str, number: int) -> Answer:
        one = self._on_demand[asked_id]
        if number >= len(one.files):
            return Answer(http.HTTPStatus.NOT_FOUND, {"error": "the input has no such file"})
        file, kept = one.files[number], self._folder / f"{asked_id}-{number}"
        # One after the other: a program may ask for the same file twice at once.
        async with self._fetching:
            moved_bytes = None
            if not await asyncio.to_thread(kept.exists):
                moved_bytes = await self._fetch(one, file, kept)
            if not self._record.has_told_fetched(one.name, file.path):
                await self._tell_fetched(one, file, kept, moved_bytes)
        return Answer(file=kept)

    async def _fetch(self, one: Input, file: InputFile, kept: Path) -> int:
        uri = file.resolved_uri or file.uri
        arriving = kept.with_suffix(".new")
        try:
            await asyncio.to_thread(self._folder.mkdir, parents=True, exist_ok=True)
            had = await self._sources.fetch(file, arriving)
            await asyncio.to_thread(arriving.rename, kept)
        except (RunyardError, OSError) as error:
            self._tell(f"input {one.name}: {uri} cannot be had: {error}")
            raise Unavailable(f"{uri} cannot be had: {error}", code="INPUT_UNAVAILABLE") from error
        return had.moved_bytes

    async def _tell_fetched(self, one: Input, file: InputFile, kept: Path, moved_bytes: int | None) -> None:
        """Report what the program gets, from the file itself: an earlier life may have fetched it."""
        got = InputFile()
        got.CopyFrom(file)
        got.sha256 = await asyncio.to_thread(file_sha256, kept)
        got.size_bytes = (await asyncio.to_thread(kept.stat)).st_size
        if moved_bytes is not None:
            got.moved_bytes = moved_bytes
        self._report_fetched(InputFetched(input=one.name, file=got))
        uri = file.resolved_uri or file.uri
        self._tell(f"input {one.name}: {uri} fetched on demand, SHA-256 {got.sha256}")
