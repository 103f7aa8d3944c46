-- Secrets of projects. Only the scheduler sees them, sealed under the yard's key, which is a file and never here.
-- A schema of its own: it is no part of the log, and a secret that is removed is gone.
create schema secret authorization runyard_log_owner
---
set local role runyard_log_owner
---
create table secret.project_secret (
  project text collate "C" not null,
  name text collate "C" not null,
  sealed_value bytea not null,
  changed_at timestamptz not null default clock_timestamp(),
  changed_by text collate "C" not null,
  primary key (project, name)
) with (autovacuum_vacuum_threshold = 0, autovacuum_vacuum_scale_factor = 0)
---
grant usage on schema secret to runyard_scheduler
---
grant select, insert, update, delete on secret.project_secret to runyard_scheduler
---
reset role
