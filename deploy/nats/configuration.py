"""Write a NATS configuration with the yard's users, and the passwords that go with it."""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from pathlib import Path

from runyard_engines import NatsSpec, agent_user, agent_user_name, metrics_user, relay_user, service_user
from runyard_engines.nats import METRICS, RELAY, SERVICES, configuration


def main() -> None:
    """Write both files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", default="", help="node ids, separated by commas")
    parser.add_argument("--listen", default="127.0.0.1:4222", help="host:port")
    parser.add_argument("--store", type=Path, default=Path("/var/lib/nats"), help="folder of the streams")
    parser.add_argument("--out", type=Path, default=Path(), help="folder for runyard.json and passwords.json")
    parser.add_argument("--agents", type=Path, help="bus-users.json of the yard: nodes that enrolled")
    parser.add_argument("--keep", action="store_true", help="keep the passwords that are there")
    arguments = parser.parse_args()
    nodes = [node for node in arguments.nodes.split(",") if node]
    # Hashes: only the nodes themselves know the passwords.
    enrolled: dict[str, str] = json.loads(arguments.agents.read_text()) if arguments.agents else {}
    passwords_file = arguments.out / "passwords.json"
    passwords: dict[str, str] = json.loads(passwords_file.read_text()) if arguments.keep else {}
    for user in (RELAY, METRICS, *SERVICES, *map(agent_user_name, nodes)):
        passwords.setdefault(user, secrets.token_urlsafe(32))
    users = (
        relay_user(passwords[RELAY]),
        metrics_user(passwords[METRICS]),
        *(service_user(name, passwords[name]) for name in SERVICES),
        *(agent_user(node, passwords[agent_user_name(node)]) for node in nodes),
        *(agent_user(node, hashed) for node, hashed in enrolled.items()),
    )
    spec = NatsSpec(arguments.store, int(arguments.listen.rpartition(":")[2]), users, Path("unused"))
    document = {**json.loads(configuration(spec)), "listen": arguments.listen}
    for path, content in ((arguments.out / "runyard.json", document), (passwords_file, passwords)):
        path.touch(mode=0o600)
        path.write_text(json.dumps(content, indent=2) + "\n")
        sys.stdout.write(f"wrote {path}\n")


if __name__ == "__main__":
    main()
