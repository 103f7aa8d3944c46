"""Hands-on sessions through the scheduler: clients and scripted agents over real gRPC on loopback."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import pytest

from runyard.agent.v1 import hands_on_service_pb2 as agent_pb
from runyard.agent.v1.hands_on_service_pb2_grpc import HandsOnAgentServiceStub
from runyard.run.v1 import hands_on_service_pb2 as pb
from runyard.run.v1.events_pb2 import RunHandsOnClosed, RunHandsOnOpened
from runyard.run.v1.hands_on_pb2 import ExitStatus, HandsOnEndReason, Terminal
from runyard.run.v1.hands_on_service_pb2_grpc import HandsOnServiceStub
from runyard_eventlog.memory import MemoryEventLog
from runyard_eventlog.port import AppendCommand, Appended
from runyard_scheduler import hands_on
from runyard_scheduler.hands_on_channel import CHUNK_BYTES_MAX

from .hands_on_bench import (
    OF_AGENT,
    OF_CLIENT,
    Bench,
    ConnectCall,
    ExecCall,
    JoinCall,
    bench,
    bench_of,
    failure,
    open_sessions,
    read_connection,
    read_exec,
    read_join,
)
from .yard import (
    SECRET_VALUE,
    WAIT_SECONDS,
    exited,
    memory_yard,
)

__all__ = ["bench"]

pytestmark = pytest.mark.system


async def test_what_is_typed_goes_to_the_agent_and_what_it_says_comes_back(bench: Bench) -> None:
    call, join = await bench.opened_exec("cat")
    await call.write(pb.ExecRequest(input=b"abc"))
    await call.write(pb.ExecRequest(input_end=pb.HandsOnStreamEnd()))
    assert (await read_join(join)).input == b"abc"
    assert (await read_join(join)).WhichOneof("message") == "input_end"
    await join.write(agent_pb.JoinRequest(output=b"ABC"))
    await join.write(agent_pb.JoinRequest(error_output=b"!"))
    await join.write(agent_pb.JoinRequest(exit_status=ExitStatus(exit_code=3)))
    assert (await read_exec(call)).output == b"ABC"
    assert (await read_exec(call)).error_output == b"!"
    assert (await read_exec(call)).exit_status.exit_code == 3
    assert await call.read() is grpc.aio.EOF
    closed = await bench.closed()
    assert (closed.end_reason, closed.exit_status.exit_code) == (
        HandsOnEndReason.HANDS_ON_END_REASON_EXITED,
        3,
    )
    assert (closed.sent_bytes, closed.received_bytes) == (3, 4)


async def test_a_session_is_recorded_before_anything_starts_and_never_what_passed(bench: Bench) -> None:
    call, join = await bench.opened_exec("train", f"--token={SECRET_VALUE}")
    await call.write(pb.ExecRequest(input=b"typed-in-confidence"))
    await read_join(join)
    call.cancel()
    await bench.closed()
    opened, closed = (await bench.yard.ledger.history(bench.grant.run_id))[-2:]
    assert isinstance(opened.message, RunHandsOnOpened)
    assert list(opened.message.command) == ["train", "--token=***"]
    assert (opened.message.attempt, opened.message.node_id) == (1, "node-1")
    assert opened.envelope.actor.id == "alice"
    assert closed.envelope.causation_id == opened.envelope.event_id
    record = b"".join(each.envelope.SerializeToString() for each in (opened, closed))
    assert b"confidence" not in record
    assert SECRET_VALUE.encode() not in record


async def test_a_client_that_leaves_ends_the_session_at_the_agent(bench: Bench) -> None:
    call, join = await bench.opened_exec()
    call.cancel()
    assert await join.read() is grpc.aio.EOF
    assert (await bench.closed()).end_reason == HandsOnEndReason.HANDS_ON_END_REASON_CLIENT_LEFT


class SlowLog(MemoryEventLog):
    """A log that has the opening of a session and does not answer yet."""

    def __init__(self) -> None:
        super().__init__()
        self.has_opened, self.may_answer, self.has_closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def append(self, command: AppendCommand) -> Appended:
        answer = await super().append(command)
        types = {envelope.type for append in command.appends for envelope in append.events}
        if "runyard.run.hands_on_closed" in types:
            self.has_closed.set()
        if "runyard.run.hands_on_opened" in types:
            self.has_opened.set()
            await self.may_answer.wait()
        return answer


@pytest.mark.usefixtures("as_alice")
async def test_a_client_that_leaves_while_its_session_is_recorded_leaves_none_open(tokens_file: Path) -> None:
    log = SlowLog()
    async with memory_yard(tokens_file, log) as yard, bench_of(yard) as bench:
        call = await bench.exec("cat")
        join = await bench.accept("cat")
        async with asyncio.timeout(WAIT_SECONDS):
            await log.has_opened.wait()
            call.cancel()
            assert await join.read() is grpc.aio.EOF
            log.may_answer.set()
            await log.has_closed.wait()
        await yard.until(lambda: not open_sessions(yard, bench.grant.run_id))


async def test_a_session_ends_with_its_agent(bench: Bench) -> None:
    call, join = await bench.opened_exec()
    join.cancel()
    code, text = await failure(call)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "the run is not touched" in text
    assert (await bench.closed()).end_reason == HandsOnEndReason.HANDS_ON_END_REASON_AGENT_LOST


async def test_an_agent_that_ends_the_session_with_the_attempt_is_understood(bench: Bench) -> None:
    call, join = await bench.opened_exec()
    refused = agent_pb.JoinRefused(code="ATTEMPT_ENDED", message="the attempt has ended")
    await join.write(agent_pb.JoinRequest(refused=refused))
    assert await failure(call) == (grpc.StatusCode.FAILED_PRECONDITION, "the attempt has ended")
    assert (await bench.closed()).end_reason == HandsOnEndReason.HANDS_ON_END_REASON_ATTEMPT_ENDED


async def test_a_refused_session_leaves_no_record(bench: Bench) -> None:
    call = await bench.exec("nonsense")
    join, task = await bench.join()
    assert list(task.exec.command) == ["nonsense"]
    refused = agent_pb.JoinRefused(code="COMMAND_NOT_FOUND", message="no such command")
    await join.write(agent_pb.JoinRequest(refused=refused))
    assert await failure(call) == (grpc.StatusCode.FAILED_PRECONDITION, "no such command")
    assert (await bench.yard.types(bench.grant.run_id))[-1] == "started"


async def test_sessions_that_are_opening_count(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hands_on, "SESSIONS_MAX", 1)
    first = await bench.exec("cat")
    await bench.join()
    code, _ = await failure(await bench.exec("cat"))
    assert code == grpc.StatusCode.RESOURCE_EXHAUSTED
    first.cancel()


async def test_only_a_running_attempt_can_be_joined(bench: Bench) -> None:
    await bench.agent.report(exited(bench.grant))
    code, text = await failure(await bench.exec())
    assert code == grpc.StatusCode.FAILED_PRECONDITION
    assert "finishing" in text


async def test_an_agent_that_is_away_is_said_to_be(bench: Bench) -> None:
    await bench.agent.close()
    left = asyncio.Event()
    bench.yard.sessions.on_change(left.set)
    while bench.yard.sessions.streams():
        left.clear()
        await left.wait()
    code, _ = await failure(await bench.exec())
    assert code == grpc.StatusCode.UNAVAILABLE


async def test_silence_of_the_node_ends_the_session(bench: Bench) -> None:
    call, _ = await bench.opened_exec()
    await bench.yard.pass_time(11)
    code, text = await failure(call)
    assert (code, text) == (grpc.StatusCode.UNAVAILABLE, "node node-1 fell silent")


async def test_agents_join_only_what_they_were_told_of(bench: Bench) -> None:
    call: JoinCall = bench.joins.Join(metadata=OF_AGENT)
    await call.write(agent_pb.JoinRequest(hello=agent_pb.JoinHello(channel_id="guessed")))
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call.read()
    assert error.value.code() == grpc.StatusCode.NOT_FOUND


async def test_agents_open_no_sessions_and_clients_join_none(bench: Bench) -> None:
    async with grpc.aio.insecure_channel(bench.yard.address) as channel:
        for call in (
            HandsOnAgentServiceStub(channel).Join(metadata=OF_CLIENT),
            HandsOnServiceStub(channel).Exec(metadata=OF_AGENT),
            HandsOnServiceStub(channel).Connect(metadata=OF_AGENT),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await call.read()
            assert error.value.code() == grpc.StatusCode.PERMISSION_DENIED


async def test_a_client_waits_for_an_agent_that_does_not_read(bench: Bench) -> None:
    call, join = await bench.opened_exec()
    chunk = bytes(CHUNK_BYTES_MAX)
    written = 0

    async def write() -> None:
        nonlocal written
        while True:
            await call.write(pb.ExecRequest(input=chunk))
            written += 1

    writing = asyncio.create_task(write())
    settled = 0
    async with asyncio.timeout(WAIT_SECONDS):
        # Until what is on its way does not grow any more: flow control has stopped the client.
        while settled != written or not written:
            settled = written
            await asyncio.sleep(0.2)
    assert written * CHUNK_BYTES_MAX < 64 * 1024 * 1024
    assert not writing.done()
    assert (await read_join(join)).input == chunk
    writing.cancel()
    call.cancel()


async def test_a_chunk_that_is_too_large_ends_the_session(bench: Bench) -> None:
    call, _ = await bench.opened_exec()
    await call.write(pb.ExecRequest(input=bytes(CHUNK_BYTES_MAX + 1)))
    code, _ = await failure(call)
    assert code == grpc.StatusCode.INVALID_ARGUMENT


async def test_a_wrong_start_is_refused(bench: Bench) -> None:
    run_id = bench.grant.run_id
    for request in (
        pb.ExecRequest(input=b"x"),
        pb.ExecRequest(start=pb.ExecStart(name=run_id, command=["a\0b"])),
        pb.ExecRequest(start=pb.ExecStart(name=run_id, command=[""])),
        pb.ExecRequest(start=pb.ExecStart(name=run_id, command=["x" * 70_000])),
        pb.ExecRequest(start=pb.ExecStart(name=run_id, terminal=Terminal(type="x\n"))),
    ):
        call: ExecCall = bench.client.Exec(metadata=OF_CLIENT)
        await call.write(request)
        assert (await failure(call))[0] == grpc.StatusCode.INVALID_ARGUMENT


async def test_many_connections_pass_through_one_forwarded_port(bench: Bench) -> None:
    forward = bench.client.Forward(pb.ForwardRequest(name=bench.grant.run_id, port=6006), metadata=OF_CLIENT)
    control = await bench.accept()
    opened = (await anext(aiter(forward))).opened
    assert opened.title == "digits#1"
    pairs = []
    for _ in range(3):
        call: ConnectCall = bench.client.Connect(metadata=OF_CLIENT)
        await call.write(pb.ConnectRequest(start=pb.ConnectStart(session_id=opened.session_id)))
        join, task = await bench.join()
        assert task.connect.port == 6006
        await join.write(agent_pb.JoinRequest(accepted=agent_pb.JoinAccepted()))
        assert (await read_connection(call)).WhichOneof("message") == "opened"
        pairs.append((call, join))
    for number, (call, join) in enumerate(pairs):
        await call.write(pb.ConnectRequest(input=bytes([number])))
        assert (await read_join(join)).input == bytes([number])
        await join.write(agent_pb.JoinRequest(output=bytes([number]) * 2))
        await join.write(agent_pb.JoinRequest(output_end=pb.HandsOnStreamEnd()))
        assert (await read_connection(call)).output == bytes([number]) * 2
        assert (await read_connection(call)).WhichOneof("message") == "output_end"
        call.cancel()
    forward.cancel()
    closed = await bench.closed()
    assert (closed.connection_count, closed.sent_bytes, closed.received_bytes) == (3, 3, 6)
    assert (await read_join(control)).WhichOneof("message") == "begin"
    assert await control.read() is grpc.aio.EOF


async def test_nothing_that_passes_for_long_ends_the_session(tokens_file: Path, as_alice: None) -> None:
    async with memory_yard(tokens_file, idle_seconds=0.2) as yard, bench_of(yard) as bench:
        call, _ = await bench.opened_exec()
        assert (await failure(call))[0] == grpc.StatusCode.FAILED_PRECONDITION
        assert (await bench.closed()).end_reason == HandsOnEndReason.HANDS_ON_END_REASON_IDLE


async def test_a_stopping_scheduler_ends_sessions_and_records_that(bench: Bench) -> None:
    call, _ = await bench.opened_exec()
    await bench.yard.hands_on.end_all()
    code, text = await failure(call)
    assert code == grpc.StatusCode.UNAVAILABLE
    assert "runs go on" in text
    assert (await bench.closed()).end_reason == HandsOnEndReason.HANDS_ON_END_REASON_SCHEDULER_STOPPED


async def test_a_new_scheduler_closes_what_an_earlier_one_left_open(
    tokens_file: Path, as_alice: None
) -> None:
    log = MemoryEventLog()
    async with memory_yard(tokens_file, log) as yard, bench_of(yard) as bench:
        await bench.opened_exec()
        async with memory_yard(tokens_file, log) as successor:
            run_id = bench.grant.run_id
            await successor.until(lambda: not open_sessions(successor, run_id))
            (closed,) = [
                each.message
                for each in await successor.ledger.history(run_id)
                if isinstance(each.message, RunHandsOnClosed)
            ]
        assert closed.end_reason == HandsOnEndReason.HANDS_ON_END_REASON_SCHEDULER_STOPPED
        assert closed.attempt == 1
