-- The one way into the log. Call it as one autocommitted statement: whoever holds its lock stops all others.
--
-- Takes the commands of one lane and their events, in command order; p_commands gives for each event the
-- index of its command (from 1), p_expected the version that its stream must have before the command, and
-- p_versions the version that the event gets.
-- A batch names a stream, a command id and an event id in one command only.
--
-- Gives one row for each command, whose outcome is
--   appended        first_position and the following ones are the command's
--   repeated        the log had the command, or each of its events, at positions
--   conflict        stream is at version actual, not at expected
--   denied          the session's role may not append to stream, or its category is of the other lane
--   command_reused  the command id is known with other content, at first_position
--   event_reused    event_id is known with other content, at first_position
--   partly_known    some of its events are known, others are not
create function log.append(
  p_lane smallint,
  p_command_ids uuid[],
  p_command_digests bytea[],
  p_event_counts integer[],
  p_commands integer[],
  p_streams text[],
  p_expected bigint[],
  p_versions bigint[],
  p_types text[],
  p_event_ids uuid[],
  p_event_digests bytea[],
  p_correlation_ids text[],
  p_causation_ids uuid[],
  p_actors text[],
  p_payloads bytea[]
) returns table (
  command integer, outcome text, first_position bigint, positions bigint[],
  stream text, expected bigint, actual bigint, event_id uuid
)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '5s'
-- Without these the duplicate checks turn into whole-table joins on growing, unanalysed tables
-- (measured elsewhere: 160 appends/s instead of 30,000).
set enable_hashjoin = off
set enable_mergejoin = off
set enable_seqscan = off
set plan_cache_mode = force_generic_plan
as $$
#variable_conflict use_column
declare
  accepted boolean[] := array_fill(true, array[cardinality(p_command_ids)]);
  own_categories text[];
  head bigint;
  recorded timestamptz;
  domain_head bigint := 0;
  f record;
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'append needs isolation level read committed' using errcode = 'RY001';
  end if;
  if current_setting('synchronous_commit') = 'off' then
    perform set_config('synchronous_commit', 'on', true);
  end if;
  if exists (
    select from (
      select u.command, u.expected, u.version,
        lag(u.command, 1, 0) over w as last_command,
        case when (u.command, u.stream) = (lag(u.command) over w, lag(u.stream) over w)
          then lag(u.version) over w else u.expected end as last_version
      from unnest(p_commands, p_streams, p_expected, p_versions) with ordinality u(command, stream, expected, version, o)
      window w as (order by u.o)
    ) v
    where v.version <> v.last_version + 1 or v.command < v.last_command or v.command > v.last_command + 1
  ) then
    raise exception 'malformed batch: events are not in command and version order' using errcode = 'RY001';
  end if;

  select array_agg(w.category) into own_categories
  from log.writer w join log.category c using (category)
  where w.role = session_user and c.lane = p_lane;
  for f in
    select u.command, min(u.stream) as stream from unnest(p_commands, p_streams) u(command, stream)
    where split_part(u.stream, '-', 1) <> all (coalesce(own_categories, '{}')) group by u.command
  loop
    accepted[f.command] := false;
    command := f.command; outcome := 'denied'; stream := f.stream;
    return next;
  end loop;
  stream := null;

  -- From here on one appender of the lane at a time. Each statement below sees all that came before.
  perform pg_advisory_xact_lock(hashtext('log.append'), p_lane);

  for f in
    select u.i::integer as command, k.digest = u.digest as same, k.first_position, k.event_count
    from unnest(p_command_ids, p_command_digests) with ordinality u(command_id, digest, i)
    join log.command k on k.command_id = u.command_id
  loop
    continue when not accepted[f.command];
    accepted[f.command] := false;
    command := f.command; first_position := f.first_position;
    outcome := case when f.same then 'repeated' else 'command_reused' end;
    -- The first answer, also when the repetition was decided anew and came with other events.
    positions := array(select generate_series(f.first_position, f.first_position + f.event_count - 1));
    return next;
  end loop;
  first_position := null; positions := null;

  for f in
    select u.command, array_agg(k.position order by u.o) as positions,
      (array_agg(k.event_id) filter (where k.digest <> u.digest or k.lane <> p_lane))[1] as other,
      (array_agg(k.position) filter (where k.digest <> u.digest or k.lane <> p_lane))[1] as other_position
    from unnest(p_commands, p_event_ids, p_event_digests) with ordinality u(command, event_id, digest, o)
    join log.event_id k on k.event_id = u.event_id
    group by u.command
  loop
    continue when not accepted[f.command];
    accepted[f.command] := false;
    command := f.command; positions := f.positions;
    event_id := f.other; first_position := f.other_position;
    outcome := case
      when f.other is not null then 'event_reused'
      when cardinality(f.positions) < p_event_counts[f.command] then 'partly_known'
      else 'repeated' end;
    return next;
  end loop;
  positions := null; event_id := null; first_position := null;

  for f in
    select u.command, u.stream, u.expected, coalesce(h.version, 0) as actual
    from unnest(p_commands, p_streams, p_expected) u(command, stream, expected)
    left join log.stream h on h.stream = u.stream
    where u.expected <> coalesce(h.version, 0)
  loop
    continue when not accepted[f.command];
    accepted[f.command] := false;
    command := f.command; outcome := 'conflict';
    stream := f.stream; expected := f.expected; actual := f.actual;
    return next;
  end loop;

  if not (true = any (accepted)) then
    return;
  end if;

  if p_lane = 1 then
    select e.position, e.recorded_at into head, recorded from log.domain_event e order by e.position desc limit 1;
  else
    select e.position, e.recorded_at into head, recorded from log.telemetry_event e order by e.position desc limit 1;
    select coalesce((select e.position from log.domain_event e order by e.position desc limit 1), 0) into domain_head;
  end if;
  head := coalesce(head, 0);
  recorded := greatest(recorded, clock_timestamp());

  with placed as materialized (
    select head + row_number() over (order by u.o) as position, u.*
    from unnest(p_commands, p_streams, p_expected, p_versions, p_types, p_event_ids, p_event_digests, p_correlation_ids,
      p_causation_ids, p_actors, p_payloads) with ordinality
      u(command, stream, expected, version, type, event_id, digest, correlation_id, causation_id, actor, payload, o)
    where accepted[u.command]
  ), heads as (
    -- A stream that two commands of the batch name comes twice here, which the database refuses.
    insert into log.stream (stream, version)
    select p.stream, max(p.version) from placed p group by p.stream, p.command, p.expected
    on conflict (stream) do update set version = excluded.version
  ), ids as (
    insert into log.event_id (event_id, position, lane, digest)
    select p.event_id, p.position, p_lane, p.digest from placed p
  )
  insert into log.event (lane, position, version, after_position, recorded_at, event_id, causation_id, stream,
    type, correlation_id, actor, payload)
  select p_lane, p.position, p.version, domain_head, recorded, p.event_id, p.causation_id, p.stream,
    p.type, p.correlation_id, p.actor, p.payload
  from placed p;

  return query
  with placed as materialized (
    select u.i::integer as command, u.command_id, u.digest, u.n,
      head + 1 + coalesce(sum(u.n) over (order by u.i rows between unbounded preceding and 1 preceding), 0) as first_position
    from unnest(p_command_ids, p_command_digests, p_event_counts) with ordinality u(command_id, digest, n, i)
    where accepted[u.i]
  ), known as (
    insert into log.command (command_id, first_position, event_count, lane, digest)
    select p.command_id, p.first_position, p.n, p_lane, p.digest from placed p
  )
  select p.command, 'appended', p.first_position::bigint, null::bigint[], null::text, null::bigint, null::bigint, null::uuid
  from placed p;

  -- Wakes the relay. Only the domain lane is mirrored.
  if p_lane = 1 then
    perform pg_notify('runyard_log', '');
  end if;
end $$
