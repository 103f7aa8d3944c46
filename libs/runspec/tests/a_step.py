"""What the tests of specifications share: a step with everything in it, and a run of it."""

from __future__ import annotations

import pytest
from google.protobuf.json_format import MessageToDict

from runyard.run.v1.types_pb2 import CodeRef, RunSpec
from runyard_core.errors import InvalidInput
from runyard_runspec import Config, RunOptions, Value, build_run_spec, parse_config

CODE = CodeRef(tree_sha256="a" * 64)
TEXT = """
- step:
    name: train
    image: python:3.11
    command:
      - '#!/bin/bash'
      - python train.py {parameters}
      - echo {parameter-value:title} {parameter:epochs} ${HOME} {unknown}
    inputs:
      - name: data
        default: datum://0123456789abcdef
        filename: train.npz
        keep-directories: suffix
      - name: extra
        optional: true
        download: on-demand
    parameters:
      - {name: epochs, type: integer, default: 5, min: 0, max: 100}
      - {name: rate, type: float, default: 0.1}
      - {name: title, default: a b}
      - {name: mode, choices: [1, fast], default: fast}
      - {name: fast, type: flag, default: true}
      - {name: slow, type: flag, pass-true-as: --slow=yes, pass-false-as: --slow=no}
      - {name: layers, type: integer, multiple: repeat, optional: true}
      - {name: names, multiple: separate, default: [a, b]}
      - {name: seed, type: integer, optional: true}
    environment-variables:
      - {name: MODE, default: x}
      - {name: EMPTY}
    time-limit: 1h 30m
    no-output-timeout: 90
    stop-condition: accuracy > 0.9
    resources: {cpu: {max: 2}, memory: {max: 1000}, devices: {nvidia.com/gpu: 2}}
    mounts: ["/mnt/sets:/sets", {source: "nas:/export", destination: /nfs, type: NFS, options: {vers: 4.2}}]
- step:
    name: strict
    image: x
    command: run {parameters}
    inputs: [{name: data}]
    parameters: [{name: epochs, type: integer}]
    environment-variables: [{name: KEY, optional: false}]
"""


@pytest.fixture(scope="module")
def config() -> Config:
    return parse_config(TEXT)


def build(
    config: Config,
    parameters: dict[str, Value] | None = None,
    inputs: dict[str, list[str]] | None = None,
    options: RunOptions | None = None,
    step: str = "train",
) -> RunSpec:
    return build_run_spec(
        config, step, parameters=parameters or {}, inputs=inputs or {}, code=CODE, options=options
    )


def values_of(spec: RunSpec) -> dict[str, object]:
    return {each.name: MessageToDict(each.value) for each in spec.parameters}


def refusal(config: Config, **asked: object) -> InvalidInput:
    with pytest.raises(InvalidInput) as caught:
        build(config, **asked)  # type: ignore[arg-type]
    assert "\n" not in caught.value.message
    return caught.value
