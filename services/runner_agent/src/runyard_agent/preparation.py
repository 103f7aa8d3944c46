"""From grant to launch plan: inputs, code and environment are fetched, config files and script written."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from runyard.agent.v1.agent_service_pb2 import AttemptStarted, LeaseGrant
from runyard.run.v1.types_pb2 import Environment, Executor, Input, InputFile, OnLost
from runyard_agent import code, config_files, inputs
from runyard_agent.attempt_store import AttemptRecord
from runyard_agent.checkpoint_record import recorded_inputs
from runyard_agent.domain.checkpoints import checkpoints_of
from runyard_agent.domain.command_script import script_text
from runyard_agent.executors import ExecutorOnNode, Surroundings
from runyard_agent.mounts import Found, find_mounts
from runyard_agent.node import Node
from runyard_agent.runtime import LaunchPlan
from runyard_contracts import agent_controls
from runyard_core.counted import count_words
from runyard_core.errors import RunyardError
from runyard_core.task_group import TaskGroup

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is ready to be launched."""

    plan: LaunchPlan
    environment: Environment
    """For the record."""


def launch_plan(grant: LeaseGrant, directory: Path, surroundings: Surroundings | None = None) -> LaunchPlan:
    """Make the launch plan; without surroundings everything but ``launch`` works with it."""
    spec = grant.spec
    return LaunchPlan(
        run_id=grant.run_id,
        attempt=grant.attempt,
        epoch=grant.epoch,
        directory=directory,
        command_lines=tuple(spec.command_lines),
        environment=surroundings.variables if surroundings else {},
        gpu_uuids=tuple(grant.gpu_uuids),
        image=surroundings.image if surroundings else "",
        venv=surroundings.venv if surroundings else None,
        has_private_view=surroundings is not None and surroundings.has_private_view,
        memory_bytes_max=spec.resources.memory_bytes_max,
        cpu_millicores_max=spec.resources.cpu_millicores_max,
        time_limit_seconds=spec.time_limit_seconds,
        no_output_timeout_seconds=spec.no_output_timeout_seconds,
        stop_grace_seconds=spec.stop_grace_seconds,
        ends_on_lease_expiry=spec.on_lost == OnLost.ON_LOST_REQUEUE,
    )


def make_folders(plan: LaunchPlan) -> None:
    """Make the folders of an attempt; what an earlier life of the agent fetched of its inputs goes."""
    shutil.rmtree(plan.inputs, ignore_errors=True)
    for folder in (plan.inputs, plan.outputs, plan.config, plan.state):
        folder.mkdir(parents=True, exist_ok=True)


class Preparation:
    """Makes one attempt ready; done anew from the start when the agent died on the way."""

    def __init__(self, node: Node, record: AttemptRecord, tell: Tell) -> None:
        """Prepare in the attempt's folder; ``tell`` gets a sentence for each step."""
        self._node = node
        self._record = record
        self._grant = record.grant
        self._plan = launch_plan(record.grant, record.directory)
        self._tell = tell

    async def run(self, executor: ExecutorOnNode) -> Prepared:
        """Fetch and write everything that the program will find.

        Raises:
            RunyardError: INPUT_UNAVAILABLE, IMAGE_UNAVAILABLE or ENVIRONMENT_UNAVAILABLE, maybe in a group.
        """
        grant, directory = self._grant, self._record.directory
        kind = Executor.Name(self._record.state.executor).removeprefix("EXECUTOR_").lower()
        self._tell(f"attempt {grant.attempt} of run #{grant.number} on node {self._node.node_id} ({kind})")
        asked = {each.name: each.value for each in grant.spec.environment_variables}
        for _, sentence in agent_controls.not_heeded(asked):
            self._tell(sentence)
        make_folders(self._plan)
        async with TaskGroup() as group:
            fetching = group.create_task(self._fetch_inputs())
            surrounding = group.create_task(self._surround(executor))
        fetched, surroundings = fetching.result(), surrounding.result()
        mounted = await self._find_mounts()
        surroundings.record.mounts.extend(each.record for each in mounted)
        plan = dataclasses.replace(
            launch_plan(grant, directory, surroundings),
            processes_max=self._node.attempt_rules.processes(),
            disk_bytes_max=self._node.attempt_rules.disk_bytes(directory),
            mounts=tuple(
                (each.record.real_path, each.record.destination)
                for each in mounted
                if each.file_system is None
            ),
            file_systems=tuple(each.file_system for each in mounted if each.file_system is not None),
        )
        hardware = await self._node.hardware(grant.gpu_uuids)
        config_files.write(
            plan.config,
            grant,
            fetched,
            executor.directories(directory),
            hardware=hardware,
            calls_url=await self._calls_url(executor),
        )
        plan.script.write_text(script_text(plan.command_lines), encoding="utf-8")
        plan.script.chmod(0o755)
        recorded = await recorded_inputs(self._node.artifact_client, fetched)
        self._record.save_prepared(AttemptStarted(hardware=hardware, inputs=recorded))
        return Prepared(plan, surroundings.record)

    async def _find_mounts(self) -> list[Found]:
        in_container = self._record.state.executor == Executor.EXECUTOR_DOCKER
        find = partial(find_mounts, in_container=in_container)
        asked, rules = self._grant.spec.mounts, self._node.input_rules
        mounted = await asyncio.to_thread(find, asked, rules, self._record.directory)
        for folder in (each.record for each in mounted):
            counted = count_words(folder.file_count, "file")
            what = counted if folder.fingerprint else "its files are not looked through"
            self._tell(f"{folder.source} is at {folder.destination}, read-only: {what}")
        return mounted

    async def _calls_url(self, executor: ExecutorOnNode) -> str:
        """Give the address of the program's calls; empty, and somebody is told, when it can have none."""
        if self._node.calls is None:
            return ""
        try:
            if host := await executor.call_host():
                return await self._node.calls.url(host, self._record.call_token)
            reason = "its network leads to no address of this machine"
        except (RunyardError, OSError) as error:
            reason = str(error)
        self._tell(f"the program cannot call the agent (status lines, inputs on demand): {reason}")
        return ""

    async def _fetch_inputs(self) -> list[Input]:
        asked = [*self._grant.spec.inputs, *await self._checkpoints()]
        if not asked:
            return []
        self._tell(f"fetching inputs: {', '.join(one.name for one in asked)}")
        asked_for = {each.name: each.value for each in self._grant.spec.environment_variables}
        variables = {**config_files.secret_variables(self._grant), **asked_for}
        sources = self._node.input_sources(variables)
        try:
            of = inputs.InputsOf(
                self._grant.project, self._node.artifact_client, self._node.cache, sources, self._tell
            )
            fetched = await inputs.fetch(of, asked, self._plan.inputs)
        finally:
            sources.close()
        self._tell(_inputs_sentence([file for one in fetched if not one.on_demand for file in one.files]))
        return fetched

    async def _checkpoints(self) -> list[Input]:
        """Give the input with what earlier attempts of the run stored, however they ended."""
        grant = self._grant
        if grant.attempt <= 1:
            return []
        stored = await self._node.artifact_client.files_of_run(grant.run_id)
        found = checkpoints_of(grant.run_id, grant.attempt, stored)
        if found is None:
            self._tell("earlier attempts have stored nothing to go on from")
        return [] if found is None else [found]

    async def _surround(self, executor: ExecutorOnNode) -> Surroundings:
        code_ref = self._grant.spec.code
        destination = self._plan.repository
        await code.checkout(self._node.artifact_client, code_ref, destination, cache=self._node.cache)
        if code_ref.tree_sha256:
            self._tell(f"code: {code_ref.tree_sha256[:12]}, {count_words(code_ref.file_count, 'file')}")
        if self._record.lacks_login and self._record.state.executor == Executor.EXECUTOR_DOCKER:
            self._tell(f"waiting for the login of registry {self._grant.registry_login.registry}")
            await self._record.wait_for_login()
        surroundings = await executor.surround(self._grant, self._record.directory, self._tell)
        record = surroundings.record
        await self._node.package_lists.share(record, self._tell)
        self._tell(f"environment: {record.image or record.interpreter}{', cached' * record.cached}")
        return surroundings


def _inputs_sentence(files: Sequence[InputFile]) -> str:
    size, moved = sum(file.size_bytes for file in files), sum(file.moved_bytes for file in files)
    what = f"inputs: {count_words(len(files), 'file')}, {size} bytes"
    if moved == size:
        return f"{what} moved"
    return f"{what}, {moved} of them moved" if moved else f"{what}, all here already"
