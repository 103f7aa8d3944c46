-- Tables of the log. Everything belongs to runyard_log_owner, a role that nobody can log in as.
set local role runyard_log_owner
---
-- Which log this is. Every restore must change it, so that no mirror of the former one is taken for ours.
create table log.identity (
  singleton boolean primary key default true check (singleton),
  log_id uuid not null default gen_random_uuid()
)
---
insert into log.identity default values
---
-- Every stream category, the one lane of its streams, and the roles that may append to it.
create table log.category (
  category text primary key,
  lane smallint not null check (lane in (1, 2))
)
---
insert into log.category values
  ('run', 1), ('node', 1), ('project', 1), ('artifact', 1), ('code', 1), ('price', 1), ('log', 1),
  ('projection', 1), ('alias', 1), ('dataset', 1), ('model', 1),
  ('telemetry', 2)
---
create table log.writer (
  role name not null,
  category text not null references log.category,
  primary key (role, category)
)
---
insert into log.writer values
  ('runyard_scheduler', 'run'), ('runyard_scheduler', 'node'), ('runyard_scheduler', 'project'),
  ('runyard_artifact', 'artifact'), ('runyard_artifact', 'code'), ('runyard_artifact', 'alias'),
  ('runyard_artifact', 'dataset'), ('runyard_artifact', 'model'),
  ('runyard_metrics', 'telemetry'),
  ('runyard_cost', 'price'),
  ('runyard_lineage', 'log'),
  -- Each service tells of the rebuilds of its own read models.
  ('runyard_scheduler', 'projection'), ('runyard_artifact', 'projection'), ('runyard_metrics', 'projection'),
  ('runyard_cost', 'projection'), ('runyard_lineage', 'projection')
---
-- The events. Lanes are the numbers of runyard.event.v1.Lane. payload is the serialised envelope without
-- position, recorded_at and after_position, which readers fill in; the columns before it repeat what is
-- searched for.
create table log.event (
  lane smallint not null,
  position bigint not null,
  version bigint not null check (version > 0),
  after_position bigint not null,
  recorded_at timestamptz not null,
  event_id uuid not null,
  causation_id uuid,
  stream text collate "C" not null,
  type text collate "C" not null check (type <> ''),
  correlation_id text collate "C" not null check (correlation_id <> ''),
  actor text collate "C" not null check (split_part(actor, ':', 1) in ('user', 'service', 'agent')),
  payload bytea not null check (octet_length(payload) <= 1044480),
  -- In this order, so that a lane's table is walked and searched by position alone.
  primary key (position, lane)
) partition by list (lane)
---
create table log.domain_event partition of log.event for values in (1) partition by range (position)
---
create table log.telemetry_event partition of log.event for values in (2) partition by range (position)
---
-- Payloads are read whole and often; compressing them costs more than it saves.
alter table log.event alter payload set storage external
---
alter table log.domain_event alter payload set storage external
---
alter table log.telemetry_event alter payload set storage external
---
create index event_stream on log.event (stream, version)
---
create index event_correlation on log.event (correlation_id, position)
---
create index event_causation on log.event (causation_id) where causation_id is not null
---
-- With the stream, so that "which streams began and did not end" is answered without the events.
create index event_type on log.event (type, position) include (stream)
---
create index event_recorded_at on log.event using brin (recorded_at)
---
-- A table partitioned by position cannot hold the keys below, so they live beside it.
-- A stream's version is the highest here: each command that wrote to it left one. Rows are added and never
-- updated, because a replay's snapshot keeps the former versions of a row, and every look at a busy stream
-- would walk over hundreds of them (measured: appends fell to a quarter of their speed after 480).
create table log.stream (
  -- The length apart from the pattern: a counted repetition takes 85 us a name, this one 1.
  stream text collate "C" not null
    check (octet_length(stream) <= 240 and stream ~ '^[a-z][a-z_]*-[A-Za-z0-9][A-Za-z0-9._-]*$'),
  version bigint not null,
  primary key (stream, version)
)
---
create table log.event_id (
  event_id uuid primary key,
  position bigint not null,
  lane smallint not null,
  digest bytea not null check (octet_length(digest) = 32)
)
---
create table log.command (
  command_id uuid primary key,
  first_position bigint not null,
  event_count integer not null,
  lane smallint not null,
  digest bytea not null check (octet_length(digest) = 32)
)
---
create table log.partition (
  lane smallint not null,
  from_position bigint not null,
  to_position bigint not null,
  name text not null unique,
  primary key (lane, from_position)
)
---
-- Grants keep everybody out; these also stop an administrator's slip.
create function log.refuse_change() returns trigger language plpgsql as $$
begin
  raise exception 'the log is append-only: % on %.% is refused', tg_op, tg_table_schema, tg_table_name
    using errcode = 'insufficient_privilege';
end $$
---
create trigger refuse_change before update or delete on log.event
  for each row execute function log.refuse_change()
---
create trigger refuse_truncate before truncate on log.event
  for each statement execute function log.refuse_change()
---
-- Makes the next partition of a lane apart and attaches it, so that nobody waits for it.
-- Sizes in events: telemetry events are batches, tens of kilobytes each.
create function log.add_partition(p_lane smallint) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
  parent constant text := case p_lane when 1 then 'domain_event' else 'telemetry_event' end;
  size constant bigint := case p_lane when 1 then 20000000 else 2000000 end;
  low bigint;
  child text;
begin
  perform pg_advisory_xact_lock(hashtext('log.add_partition'), p_lane);
  select coalesce(max(p.to_position), 1) into low from log.partition p where p.lane = p_lane;
  child := format('%s_%s', parent, lpad(low::text, 12, '0'));
  execute format('create table log.%I (like log.%I including defaults including constraints including storage)', child, parent);
  execute format('alter table log.%I attach partition log.%I for values from (%s) to (%s)', parent, child, low, low + size);
  execute format('create trigger refuse_truncate before truncate on log.%I for each statement execute function log.refuse_change()', child);
  insert into log.partition values (p_lane, low, low + size, child);
  return child;
end $$
---
select log.add_partition(1::smallint), log.add_partition(2::smallint)
---
select log.add_partition(1::smallint), log.add_partition(2::smallint)
---
-- Gives the log a new identity; run once after every restore, before any service starts.
create function log.change_identity() returns uuid language sql as $$
  update log.identity set log_id = gen_random_uuid() returning log_id
$$
---
-- Last position of the domain lane recorded at or before a time. Positions have no gaps and recorded_at
-- never runs backwards, so this is a binary search of about 30 index lookups.
create function log.position_at(p_time timestamptz) returns bigint
language plpgsql stable
set search_path = pg_catalog, pg_temp
as $$
declare
  low bigint := 0;
  high bigint;
  middle bigint;
begin
  select e.position into high from log.domain_event e order by e.position desc limit 1;
  high := coalesce(high, 0);
  while low < high loop
    middle := (low + high + 1) / 2;
    if (select e.recorded_at from log.domain_event e where e.position = middle) <= p_time then
      low := middle;
    else
      high := middle - 1;
    end if;
  end loop;
  return low;
end $$
