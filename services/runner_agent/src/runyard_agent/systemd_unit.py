"""The agent as a service of systemd: under a user of its own, with no more rights than runs need."""

from __future__ import annotations

import sys
from pathlib import Path

UNIT_PATH = Path("/etc/systemd/system/runyard-agent.service")
SETTINGS_PATH = Path("/etc/runyard-agent.env")
USER = "runyard-agent"

# What is set here holds for the programs of runs, too: they are children of the unit, and stay when the agent
# is started anew. So no PrivateTmp (it would be emptied under them), no DeviceAllow (GPUs), and namespaces
# stay allowed (/valohai of a process).
_UNIT = """\
[Unit]
Description=Runyard runner agent
Wants=network-online.target
After=network-online.target docker.service

[Service]
User={user}
ExecStart={program} run
# Settings beside those of the enrolment: RUNYARD_SLOT_COUNT, RUNYARD_SHARED_FOLDERS, ...
EnvironmentFile=-{settings}
Environment=RUNYARD_AGENT_DIR=/var/lib/runyard-agent
StateDirectory=runyard-agent
StateDirectoryMode=0700
Restart=always
RestartSec=2
# The agent alone: shims and what they train outlive it, and the next agent takes them back.
KillMode=process
TimeoutStopSec=30
OOMScoreAdjust=-500
# Control groups below this unit, in which limits of processes hold.
Delegate=yes
DelegateSubgroup=agent
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=full
ProtectClock=yes
ProtectHostname=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
LockPersonality=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native

[Install]
WantedBy=multi-user.target
"""


def unit_text(*, user: str = USER) -> str:
    """Give the unit for the program that runs now."""
    program = Path(sys.executable).with_name("runyard-agent")
    return _UNIT.format(user=user, program=program, settings=SETTINGS_PATH)
