-- Old partitions whose events are in the archive can be detached.
set local role runyard_log_owner
---
alter table log.partition add column detached_at timestamptz
---
-- Detaches the oldest partition of a lane and gives its name; its table stays, for a person to drop.
-- p_verified_to is the position up to which the archive was verified against this database: call this through
-- runyard_eventlog.verification, which verifies first. Only administrators may.
create function log.detach_oldest_partition(p_lane smallint, p_verified_to bigint) returns text
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
declare
  parent constant text := case p_lane when 1 then 'domain_event' else 'telemetry_event' end;
  oldest log.partition;
  head bigint;
begin
  perform pg_advisory_xact_lock(hashtext('log.add_partition'), p_lane);
  select * into oldest from log.partition p where p.lane = p_lane and p.detached_at is null
  order by p.from_position limit 1;
  if oldest.to_position - 1 > p_verified_to then
    raise exception 'partition % ends at position %, but the archive is verified only to %',
      oldest.name, oldest.to_position - 1, p_verified_to using errcode = 'RY002';
  end if;
  -- The newest event gives the next position and time, so its partition stays.
  select max(e.position) into head from log.event e where e.lane = p_lane;
  if head is null or head < oldest.to_position then
    raise exception 'partition % holds the head of its lane', oldest.name using errcode = 'RY002';
  end if;
  execute format('alter table log.%I detach partition log.%I', parent, oldest.name);
  update log.partition p set detached_at = clock_timestamp() where p.name = oldest.name;
  return oldest.name;
end $$
---
revoke all on function log.detach_oldest_partition from public
---
-- As before, but among the positions that are still here: the answer for a time before all of them is the
-- position before the first, and then the archive knows better.
create or replace function log.position_at(p_time timestamptz) returns bigint
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
  select coalesce(min(p.from_position) - 1, 0) into low from log.partition p
  where p.lane = 1 and p.detached_at is null;
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
---
reset role
