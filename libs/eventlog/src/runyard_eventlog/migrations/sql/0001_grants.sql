-- What each role may do: read the log; append to its own categories through the function; nothing else.
revoke all on all functions in schema log from public
---
grant usage on schema log to runyard_scheduler, runyard_artifact, runyard_metrics, runyard_cost, runyard_lineage,
  runyard_relay, runyard_reader
---
grant select on log.identity, log.category, log.writer, log.event, log.domain_event, log.telemetry_event, log.stream,
  log.event_id, log.command, log.partition to runyard_scheduler, runyard_artifact, runyard_metrics, runyard_cost,
  runyard_lineage, runyard_relay, runyard_reader
---
grant execute on function log.position_at to runyard_scheduler, runyard_artifact, runyard_metrics, runyard_cost,
  runyard_lineage, runyard_relay, runyard_reader
---
grant execute on function log.append to runyard_scheduler, runyard_artifact, runyard_metrics, runyard_cost, runyard_lineage
---
grant execute on function log.add_partition to runyard_relay
---
reset role
