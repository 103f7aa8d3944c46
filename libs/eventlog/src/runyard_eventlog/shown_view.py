"""The unversioned view of a read model's table: what operators granted and built on it outlives a rebuild."""

from __future__ import annotations

import logging
from typing import Any

import asyncpg

from runyard_core.projection import TableSpec
from runyard_eventlog.connections import Connection
from runyard_eventlog.readmodel import view_ddl

_GRANTS = """
select a.privilege_type, a.is_grantable,
  case when a.grantee = 0 then 'public' else a.grantee::regrole::text end as grantee
from pg_class c, aclexplode(c.relacl) a where c.oid = $1::regclass and a.grantee <> c.relowner
"""
_STANDING_ON_IT = """
select distinct r.ev_class::regclass::text as name from pg_depend d join pg_rewrite r on r.oid = d.objid
where d.classid = 'pg_rewrite'::regclass and d.refobjid = $1::regclass and r.ev_class <> d.refobjid
"""

_log = logging.getLogger(__name__)


async def point_view(connection: Connection, spec: TableSpec[Any], version: int, schema: str) -> None:
    """Let the view show the current rows of a version, within the caller's transaction.

    Whoever may read it still may. Views that others built on it stay while it has the columns that it had;
    with other ones they are dropped, and named in a warning.
    """
    ddl = view_ddl(spec, version, schema)
    try:
        async with connection.transaction():
            await connection.execute(ddl)
    except asyncpg.InvalidTableDefinitionError:
        view = f'"{schema}"."{spec.name}"'
        grants = await connection.fetch(_GRANTS, view)
        dropped = [row["name"] for row in await connection.fetch(_STANDING_ON_IT, view)]
        await connection.execute(f"drop view {view} cascade; {ddl}")
        for row in grants:
            option = " with grant option" if row["is_grantable"] else ""
            await connection.execute(f"grant {row['privilege_type']} on {view} to {row['grantee']}{option}")
        if dropped:
            _log.warning(
                "version %d of %s has other columns: dropped %s, which were built on it",
                version,
                view,
                ", ".join(dropped),
            )
