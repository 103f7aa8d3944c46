"""``runyard run STEP``: check everything, snapshot the code, upload what is new, queue a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from runyard_cli.examples import examples
from runyard_cli.failures import ExitCode
from runyard_cli.local_inputs import (
    LocalInput,
    Uploaded,
    find_local,
    place,
    require_room,
    upload,
    uri_of,
    without_own,
)
from runyard_cli.names import default_project, name_here, project_option
from runyard_cli.output import is_json, note, output_option, say, say_json
from runyard_cli.session import converse, get_run
from runyard_cli.step_options import StepCommand, complete_step, given_values
from runyard_cli.words import run_name, size_words
from runyard_core.counted import count_words

if TYPE_CHECKING:
    from runyard.artifact.v1.types_pb2 import Artifact
    from runyard.run.v1.scheduler_service_pb2 import SubmitRunResponse
    from runyard.run.v1.types_pb2 import CodeRef, Run, RunSpec
    from runyard_client import Client
    from runyard_client.snapshot import Snapshot
    from runyard_runspec import Config, RunOptions, Value

_REQUIREMENTS = "requirements.txt"
# Stands for a local file until it is uploaded: everything is checked before anything is sent.
_PENDING_URI = "datum://" + "0" * 64


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, before anything is sent."""

    config: Config
    step: str
    parameters: Mapping[str, Value]
    inputs: Mapping[str, Sequence[str | LocalInput]]
    options: RunOptions
    project: str
    title: str
    tags: Sequence[str]

    def spec(self, code: CodeRef, uris: Mapping[Path, str]) -> RunSpec:
        """Check it, and make the specification of the run; ``uris`` has the reference of each local file."""
        from runyard_runspec import build_run_spec

        inputs = {
            name: list(dict.fromkeys(uri for each in sources for uri in _uris(each, uris)))
            for name, sources in self.inputs.items()
        }
        return build_run_spec(
            self.config,
            self.step,
            parameters=self.parameters,
            inputs=inputs,
            code=code,
            options=self.options,
        )


@click.command(
    "run",
    epilog=examples(
        "run train --epochs 5 --follow",
        "run train --input training-data=./train.npz --gpus 0",
        "run evaluate --input model=datum://5d0266a9 --input test-data='*.npz' --tag baseline",
    ),
    cls=StepCommand,
)
@click.argument("step", shell_complete=complete_step)
@click.option("--param", "params", multiple=True, metavar="NAME=VALUE", help="A parameter; repeat for lists.")
@click.option(
    "--input",
    "inputs",
    multiple=True,
    metavar="NAME=URI",
    help="An input: datum://, https://, s3://, or a local file, folder or pattern ('*.csv'), which is "
    "uploaded; repeat for more.",
)
@click.option("--image", default="", metavar="IMAGE", help="Another container image.")
@click.option("--gpus", type=click.IntRange(0), metavar="N", help="GPUs; by default what the step says.")
@click.option(
    "--executor",
    type=click.Choice(["auto", "docker", "process"]),
    default="auto",
    show_default=True,
    help="How to start the code; auto: in Docker where there is one.",
)
@click.option(
    "--env", "variables", multiple=True, metavar="NAME=VALUE", help="Environment variable; no secrets."
)
@click.option(
    "--priority",
    type=click.IntRange(-(10**9), 10**9),
    default=0,
    metavar="N",
    show_default=True,
    help="Higher goes first.",
)
@click.option(
    "--on-lost",
    type=click.Choice(["wait", "requeue"]),
    help="When its node falls silent: wait for it, or try again elsewhere; by default as the step says.",
)
@click.option(
    "--attempts", type=click.IntRange(1, 1_000), metavar="N", help="Attempts at most, if nodes are lost: 10."
)
@click.option("--title", default="", metavar="TEXT", help="A title for people.")
@click.option("--tag", "tags", multiple=True, metavar="TAG", help="A tag; repeat for several.")
@project_option
@click.option("-f", "--follow", is_flag=True, help="Show the log until the end; exit code 1 if it fails.")
@output_option
@click.pass_context
def command(
    context: click.Context,
    step: str,
    params: Sequence[str],
    inputs: Sequence[str],
    image: str,
    gpus: int | None,
    executor: str,
    variables: Sequence[str],
    priority: int,
    on_lost: str | None,
    attempts: int | None,
    title: str,
    tags: Sequence[str],
    project: str | None,
    follow: bool,
) -> None:
    """Queue a run of STEP of the valohai.yaml here, with the code as it is now, committed or not.

    `runyard run STEP --help` shows the parameters of the step as well.
    """
    from runyard.run.v1.types_pb2 import CodeRef, Executor, OnLost
    from runyard_runspec import RunOptions, find_config, read_config

    config = read_config(find_config(Path()))
    config.step(step)
    asked = Asked(
        config=config,
        step=step,
        parameters=_parameters(given_values(context), params, config, step),
        inputs=_inputs(inputs),
        options=RunOptions(
            image=image,
            executor=Executor.Value(f"EXECUTOR_{executor.upper()}"),
            gpu_count=gpus,
            priority=priority,
            on_lost=None if on_lost is None else OnLost.Value(f"ON_LOST_{on_lost.upper()}"),
            attempts_max=attempts or 0,
            variables=dict(_pair(text, "--env") for text in variables),
        ),
        project=default_project(project),
        title=title,
        tags=tags,
    )
    asked.spec(CodeRef(), {})
    submitted = converse(lambda client: _submit_and_follow(client, asked, follow=follow))
    raise SystemExit(int(submitted))


async def _submit_and_follow(client: Client, asked: Asked, *, follow: bool) -> ExitCode:
    answer = await _submit(client, asked)
    run = answer.run
    if not follow:
        if is_json():
            say_json(answer)
        else:
            say(f"{run_name(run)} queued  {run.run_id}")
            # Asked only now: the answer to a submit is the same whenever it is repeated.
            waiting = await get_run(client, run.run_id, min_position=answer.position)
            if waiting.waiting_reason:
                note(f"it waits: {waiting.waiting_reason}")
            name = name_here(run.project, run.number)
            note(f"`runyard logs -f {name}` follows it, `runyard show {name}` shows its record")
        return ExitCode.DONE
    return await _follow(client, run)


async def _submit(client: Client, asked: Asked) -> SubmitRunResponse:
    from runyard.artifact.v1.artifact_service_pb2 import ResolveInputsRequest
    from runyard.run.v1.scheduler_service_pb2 import SubmitRunRequest
    from runyard_contracts.ids import uuid7

    snapshot = await _upload_code(client)
    uploaded = await _upload_inputs(client, asked)
    if snapshot.has_file(_REQUIREMENTS):
        options = replace(asked.options, default_requirements_path=_REQUIREMENTS)
        asked = replace(asked, options=options)
    spec = asked.spec(snapshot.code, {path: uri_of(artifact) for path, artifact in uploaded.items()})
    # A reference that names nothing is refused here, not after a wait in the queue.
    wanted = [without_own(each, asked.inputs.get(each.name, ()), uploaded) for each in spec.inputs]
    resolved = await client.artifacts.ResolveInputs(
        ResolveInputsRequest(inputs=wanted, project=asked.project)
    )
    for each, found in zip(spec.inputs, resolved.inputs, strict=True):
        del each.files[:]
        each.files.extend(found.files)
        place(each, asked.inputs.get(each.name, ()), uploaded)
    return await client.scheduler.SubmitRun(
        SubmitRunRequest(
            request_id=uuid7(),
            project=asked.project,
            spec=spec,
            title=asked.title,
            tags=asked.tags,
        )
    )


async def _upload_code(client: Client) -> Snapshot:
    from runyard_cli.transfer import Progress
    from runyard_client.hashing import in_thread
    from runyard_client.snapshot import take_snapshot, upload_snapshot

    hashing = Progress("hashing code", 0)
    try:
        snapshot = await in_thread(partial(take_snapshot, Path()), hashing.add)
    finally:
        hashing.close()
    for warning in snapshot.warnings:
        note(f"warning: {warning}")
    sending = Progress("sending code", 0)
    try:
        await upload_snapshot(client, snapshot, on_bytes=sending.add)
    finally:
        sending.close()
    if not is_json():
        note(_code_words(snapshot))
    return snapshot


async def _upload_inputs(client: Client, asked: Asked) -> dict[Path, Artifact]:
    def tell(local: LocalInput, uploaded: Uploaded) -> None:
        if is_json():
            return
        artifacts = [uploaded[path] for path, _ in local.files]
        size = size_words(sum(each.size_bytes for each in artifacts))
        what = uri_of(artifacts[0]) if len(artifacts) == 1 else count_words(len(artifacts), "file")
        note(f"{local.source} is {what} ({size})")

    wanted = [each for sources in asked.inputs.values() for each in sources if isinstance(each, LocalInput)]
    return await upload(client, wanted, asked.project, tell)


async def _follow(client: Client, run: Run) -> ExitCode:
    from runyard_cli.follow import follow_to_end, say_end

    return say_end(await follow_to_end(client, run))


def _parameters(
    typed: Mapping[str, Value], params: Sequence[str], config: Config, step: str
) -> dict[str, Value]:
    from runyard_runspec.parameters import find_parameter

    given = dict(typed)
    declared = config.step(step).parameters
    lists: dict[str, list[str | int | float | bool]] = {}
    for text in params:
        name, value = _pair(text, "--param")
        parameter = find_parameter(declared, name)
        if parameter is not None and parameter.is_multiple:
            lists.setdefault(name, []).append(value)
        else:
            given[name] = value
    return {**given, **lists}


def _inputs(inputs: Sequence[str]) -> dict[str, list[str | LocalInput]]:
    chosen: dict[str, list[str | LocalInput]] = {}
    try:
        for text in inputs:
            name, source = _pair(text, "--input")
            sources = chosen.setdefault(name, [])
            if source:
                sources.append(source if "://" in source else find_local(source))
        require_room(each for sources in chosen.values() for each in sources)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--input") from None
    return chosen


def _uris(source: str | LocalInput, uris: Mapping[Path, str]) -> Sequence[str]:
    if isinstance(source, str):
        return (source,)
    return [uris.get(path, _PENDING_URI) for path, _ in source.files]


def _pair(text: str, option: str) -> tuple[str, str]:
    name, separator, value = text.partition("=")
    if not separator or not name:
        raise click.BadParameter(f"{text!r}: want NAME=VALUE", param_hint=option)
    return name, value


def _code_words(snapshot: Snapshot) -> str:
    code = snapshot.code
    words = f"code: {count_words(code.file_count, 'file')}, {size_words(code.size_bytes)}"
    if code.git_commit:
        words += f", commit {code.git_commit[:10]}"
    if code.dirty:
        words += " with uncommitted changes" if code.git_commit else ", nothing committed yet"
    return words
