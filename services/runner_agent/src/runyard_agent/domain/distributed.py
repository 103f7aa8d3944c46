"""What a member of a distributed run is told: the other members, and its own rank among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from runyard.agent.v1.agent_service_pb2 import Distributed, DistributedMember

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]


def distributed_config(group: Distributed) -> Json:
    """Give the content of ``distributed.json``."""
    members: list[Json] = [_member(member) for member in group.members]
    return {
        "config": {
            "group_name": group.group_name,
            "member_id": group.member_id,
            "required_count": group.required_count,
        },
        "members": members,
        "self": next((_member(each) for each in group.members if each.member_id == group.member_id), None),
    }


def distributed_variables(group: Distributed) -> dict[str, str]:
    """Give the variables of a member."""
    own = next((member for member in group.members if member.member_id == group.member_id), None)
    variables = {
        "VH_DIST_MEMBER_ID": group.member_id,
        "VH_DIST_MEMBER_INDEX": str(rank_of(group)),
        "VH_DIST_MEMBER_COUNT": str(group.required_count),
    }
    if own is not None and own.local_ips:
        variables["VH_LOCAL_IP"] = own.local_ips[0]
    if own is not None and own.public_ips:
        variables["VH_PUBLIC_IP"] = own.public_ips[0]
    return variables


def rank_of(group: Distributed) -> int:
    """Give the rank of a member: its place in the order of ids, as numbers when all are whole numbers."""
    ids = [member.member_id for member in group.members]
    try:
        ids.sort(key=int)
    except ValueError:
        ids.sort()
    return ids.index(group.member_id) if group.member_id in ids else 0


def _member(member: DistributedMember) -> dict[str, Json]:
    return {
        "announce_time": member.announced_at.ToJsonString(),
        "identity": member.identity,
        "job_id": f"exec-{member.run_id}",
        "member_id": member.member_id,
        "network": {
            "exposed_ports": dict(member.exposed_ports),
            "local_ips": list(member.local_ips),
            "public_ips": list(member.public_ips),
        },
    }
