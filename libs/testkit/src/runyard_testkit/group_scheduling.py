"""Sends tests of one ``xdist_group`` to one worker, as they share a yard or would disturb each other.

xdist 3.8 hands a group on as a suffix of the test's id, which pytest 9.2 no longer shows: its own
scheduler sends every test anywhere. So the group is read from the text of the test's file.
"""

from __future__ import annotations

from xdist.scheduler import LoadGroupScheduling  # type: ignore[import-untyped]

from runyard_testkit.groups import group_of


class GroupScheduling(LoadGroupScheduling):  # type: ignore[misc]  # it has no types
    """Schedules whole groups, and all other tests one by one."""

    def _split_scope(self, nodeid: str) -> str:
        return group_of(self.config.rootpath / nodeid.partition("::")[0]) or nodeid
