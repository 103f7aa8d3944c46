"""The tables in which a service's schema keeps the places, parked events and rebuilds of its projections."""

from __future__ import annotations

from runyard_eventlog.connections import Connection


async def prepare(connection: Connection, schema: str) -> None:
    """Make what is missing, inside a transaction. Safe beside other processes that do the same."""
    await connection.execute("select pg_advisory_xact_lock(hashtext('runyard projections'))")
    await connection.execute(_TABLES.replace("{schema}", schema))


# A build is "" (live), "_new", "_old" or "_check": see readmodel.Build. The epoch changes whenever somebody
# other than the projector changes what it goes on from, so that it looks again. Events that were disputed by
# disputes_position are left out by whoever fills the build.
_TABLES = """
create table if not exists {schema}.projection_checkpoint (
  projection text, version bigint, position bigint not null,
  moved_at timestamptz not null default now(), primary key (projection, version));
create table if not exists {schema}.projection_parked (
  projection text, version bigint, position bigint, stream text not null,
  event_id text not null, type text not null, reason text not null, error text not null,
  parked_at timestamptz not null default now(), primary key (projection, version, position));
create table if not exists {schema}.projection_rebuild (
  projection text primary key, version bigint not null, rebuild_id uuid not null, actor text not null,
  traceparent text not null, accepts_differences boolean not null, state text not null,
  event bytea, started_at timestamptz not null default now());
do $$ begin
  if not exists (select from information_schema.columns where table_schema = '{schema}'
      and table_name = 'projection_checkpoint' and column_name = 'build') then
    alter table {schema}.projection_checkpoint
      add column build text not null default '', add column epoch bigint not null default 0,
      add column disputes_position bigint not null default 0, add column tables text[] not null default '{}',
      drop constraint projection_checkpoint_pkey, add primary key (projection, version, build);
    alter table {schema}.projection_parked add column build text not null default '',
      drop constraint projection_parked_pkey, add primary key (projection, version, build, position);
  end if;
end $$
"""
