"""By which address containers reach the node, as the daemon describes their network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from runyard_agent.docker_daemon import gateway_of

BRIDGE = "com.docker.network.bridge.name"


@pytest.mark.parametrize(
    ("network", "gateway"),
    [
        ({"IPAM": {"Config": [{"Gateway": "fd00::1"}, {"Gateway": "172.17.0.1"}]}}, "172.17.0.1"),
        # A daemon that has not been started again since it made its bridge names no gateway.
        ({"IPAM": {"Config": [{"Subnet": "127.0.0.0/8"}]}, "Options": {BRIDGE: "lo"}}, "127.0.0.1"),
        ({"IPAM": {"Config": None}, "Options": {BRIDGE: "no-such-bridge"}}, ""),
        ({"IPAM": {"Config": [{"Subnet": "10.0.0.0/8"}]}, "Options": None}, ""),
    ],
)
def test_the_gateway_is_the_one_named_or_else_the_bridge_s_own_address(
    network: Mapping[str, Any], gateway: str
) -> None:
    assert gateway_of(network) == gateway
