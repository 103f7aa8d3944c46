-- Keys of persons. What names a person in the log is sealed under one of them; without it nobody can read that.
-- A schema of its own: it is no part of the log, of its mirror, of exports, nor of a backup that is kept long.
create schema personal authorization runyard_log_owner
---
set local role runyard_log_owner
---
-- One row for each person. It holds no name: a person is found by a keyed hash of it.
create table personal.person (
  person_id bytea primary key check (octet_length(person_id) = 12),
  name_hash bytea unique check (octet_length(name_hash) = 32),
  -- Sealed in its turn under the yard's key, which is a file and never here.
  wrapped_key bytea,
  created_at timestamptz not null default clock_timestamp(),
  erased_at timestamptz,
  check ((name_hash is null) = (erased_at is not null) and (wrapped_key is null) = (erased_at is not null))
) with (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)
---
-- How many persons were erased: grows in commit order, so that whoever kept keys in memory sees that one is gone.
create table personal.erasures (
  singleton boolean primary key default true check (singleton),
  erased_count bigint not null default 0
)
---
insert into personal.erasures default values
---
-- Shreds the key of a person, and what the person could be found by; false when that was done before.
create function personal.erase(p_person_id bytea) returns boolean
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '10s'
as $$
begin
  update personal.person p set name_hash = null, wrapped_key = null, erased_at = clock_timestamp()
  where p.person_id = p_person_id and p.erased_at is null;
  if not found then
    return false;
  end if;
  update personal.erasures set erased_count = erased_count + 1;
  return true;
end $$
---
revoke all on all functions in schema personal from public
---
grant usage on schema personal to runyard_scheduler, runyard_artifact, runyard_metrics, runyard_cost,
  runyard_lineage, runyard_reader
---
grant select on personal.person, personal.erasures to runyard_scheduler, runyard_artifact, runyard_metrics,
  runyard_cost, runyard_lineage, runyard_reader
---
grant insert (person_id, name_hash, wrapped_key) on personal.person to runyard_scheduler, runyard_artifact,
  runyard_metrics, runyard_cost, runyard_lineage
---
grant execute on function personal.erase to runyard_lineage
---
reset role
