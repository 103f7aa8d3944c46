"""A Docker daemon and a small local image, where there is a daemon."""

from __future__ import annotations

import gc
import os
import warnings
from collections.abc import Iterator
from typing import NoReturn

import docker
import pytest
from docker.errors import DockerException, ImageNotFound

REQUIRE_VARIABLE = "RUNYARD_REQUIRE_DOCKER"
"""When 1, a test that needs Docker fails without it instead of being skipped."""

IMAGE_VARIABLE = "RUNYARD_TEST_IMAGE"
IMAGE = "local/python:3.11"


@pytest.fixture(scope="session")
def docker_client() -> Iterator[docker.DockerClient]:
    """Give a client of the daemon."""
    reason = ""
    try:
        client = docker.from_env(timeout=60)
        client.ping()
    except DockerException as error:
        reason = f"no Docker daemon answers ({error}): run tests/tools/start-dockerd"
    if reason:
        _forget_socket()
        _missing(reason)
    yield client
    client.close()


@pytest.fixture(scope="session")
def test_image(docker_client: docker.DockerClient) -> str:
    """Name the local image with Python that tests run."""
    image = os.environ.get(IMAGE_VARIABLE, IMAGE)
    try:
        docker_client.images.get(image)
    except ImageNotFound:
        _missing(f"the image {image} is not there: run tests/tools/make-test-image")
    return image


def _forget_socket() -> None:
    """Collect the socket that the library leaves open when nobody answers: its warning would end pytest."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


def _missing(reason: str) -> NoReturn:
    if os.environ.get(REQUIRE_VARIABLE) == "1":
        pytest.fail(reason)
    pytest.skip(reason)
