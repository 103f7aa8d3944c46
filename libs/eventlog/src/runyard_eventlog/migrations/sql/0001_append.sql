-- The one way into the log. Call it as one autocommitted statement: whoever holds its lock stops all others.
--
-- Takes the commands of one lane and their events, in command order; p_commands gives for each event the
-- index of its command (from 1), and p_versions the version that it gets: that of the first event of a
-- stream is one more than the version which the command expects there.
-- A batch names a stream, a command id and an event id in one command only.
--
-- Gives one row for each command that is not appended, whose outcome is
--   repeated        the log had the command, or each of its events, at positions
--   conflict        stream is at version actual, not at expected
--   denied          the session's role may not append to stream, or its category is of the other lane
--   command_reused  the command id is known with other content, at first_position
--   event_reused    event_id is known with other content, at first_position
--   partly_known    some of its events are known, others are not
-- and one row for all the others together, whose command is null: appended, in their order, from
-- first_position on.
create function log.append(
  p_lane smallint,
  p_command_ids uuid[],
  p_command_digests bytea[],
  p_commands integer[],
  p_streams text[],
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
  event_count constant integer := cardinality(p_commands);
  command_count constant integer := cardinality(p_command_ids);
  accepted boolean[] := array_fill(true, array[command_count]);
  own_categories text[];
  -- Indexes of events: the first of each command, the first of each stream of a command, those to append.
  -- Subscripts into the arguments cost half of what joining unnested columns does.
  command_starts integer[];
  stream_starts integer[];
  kept integer[] := array(select generate_series(1, event_count));
  is_malformed boolean;
  is_denied boolean;
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

  select coalesce(array_agg(w.category), '{}') into own_categories
  from log.writer w join log.category c using (category)
  where w.role = session_user and c.lane = p_lane;

  select array_agg(i order by i) filter (where e.starts_command),
    array_agg(i order by i) filter (where e.starts_command or e.starts_stream),
    bool_or(case when e.starts_command then p_commands[i] <> coalesce(p_commands[i - 1], 0) + 1
      else not e.starts_stream and p_versions[i] <> p_versions[i - 1] + 1 end),
    bool_or(split_part(p_streams[i], '-', 1) <> all (own_categories))
  into command_starts, stream_starts, is_malformed, is_denied
  from (
    select i, p_commands[i] is distinct from p_commands[i - 1] as starts_command,
      p_streams[i] is distinct from p_streams[i - 1] as starts_stream
    from generate_series(1, event_count) i
  ) e;
  if is_malformed or cardinality(command_starts) is distinct from command_count
    or cardinality(stream_starts) <> (select count(distinct p_streams[i]) from unnest(stream_starts) i)
    or event_count <> any (array[
      cardinality(p_streams), cardinality(p_versions), cardinality(p_types), cardinality(p_event_ids),
      cardinality(p_event_digests), cardinality(p_correlation_ids), cardinality(p_causation_ids),
      cardinality(p_actors), cardinality(p_payloads)])
  then
    raise exception 'malformed batch: events are not in command and version order, or a stream comes twice'
      using errcode = 'RY001';
  end if;

  if is_denied then
    for f in
      select p_commands[i] as command, min(p_streams[i]) as stream from unnest(stream_starts) i
      where split_part(p_streams[i], '-', 1) <> all (own_categories) group by p_commands[i]
    loop
      accepted[f.command] := false;
      command := f.command; outcome := 'denied'; stream := f.stream;
      return next;
    end loop;
    stream := null;
  end if;

  -- From here on one appender of the lane at a time. Each statement below sees all that came before.
  perform pg_advisory_xact_lock(hashtext('log.append'), p_lane);

  if exists (select from log.command k where k.command_id = any (p_command_ids)) then
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
  end if;

  if exists (select from log.event_id k where k.event_id = any (p_event_ids)) then
    for f in
      select u.command, array_agg(k.position order by u.o) as positions, count(*) < u.event_count as partly,
        (array_agg(k.event_id) filter (where k.digest <> u.digest or k.lane <> p_lane))[1] as other,
        (array_agg(k.position) filter (where k.digest <> u.digest or k.lane <> p_lane))[1] as other_position
      from (
        select v.*, count(*) over (partition by v.command) as event_count
        from unnest(p_commands, p_event_ids, p_event_digests) with ordinality v(command, event_id, digest, o)
      ) u
      join log.event_id k on k.event_id = u.event_id
      group by u.command, u.event_count
    loop
      continue when not accepted[f.command];
      accepted[f.command] := false;
      command := f.command; positions := f.positions;
      event_id := f.other; first_position := f.other_position;
      outcome := case
        when f.other is not null then 'event_reused'
        when f.partly then 'partly_known'
        else 'repeated' end;
      return next;
    end loop;
    positions := null; event_id := null; first_position := null;
  end if;

  for f in
    select p_commands[i] as command, p_streams[i] as stream, p_versions[i] - 1 as expected,
      coalesce(h.version, 0) as actual
    from unnest(stream_starts) i left join lateral (
      select h.version from log.stream h where h.stream = p_streams[i] order by h.version desc limit 1
    ) h on true
    where p_versions[i] - 1 <> coalesce(h.version, 0)
  loop
    continue when not accepted[f.command];
    accepted[f.command] := false;
    command := f.command; outcome := 'conflict';
    stream := f.stream; expected := f.expected; actual := f.actual;
    return next;
  end loop;
  stream := null; expected := null; actual := null;

  if false = any (accepted) then
    kept := array(select i from unnest(kept) i where accepted[p_commands[i]] order by i);
    if kept = '{}' then
      return;
    end if;
  end if;

  if p_lane = 1 then
    select e.position, e.recorded_at into head, recorded from log.domain_event e order by e.position desc limit 1;
  else
    select e.position, e.recorded_at into head, recorded from log.telemetry_event e order by e.position desc limit 1;
    select coalesce((select e.position from log.domain_event e order by e.position desc limit 1), 0) into domain_head;
  end if;
  head := coalesce(head, 0);
  recorded := greatest(recorded, clock_timestamp());

  insert into log.stream (stream, version)
  select p_streams[s.i], p_versions[coalesce(stream_starts[s.o + 1], event_count + 1) - 1]
  from unnest(stream_starts) with ordinality s(i, o)
  where accepted[p_commands[s.i]];

  insert into log.command (command_id, first_position, event_count, lane, digest)
  select p_command_ids[p_commands[k.i]], head + k.o,
    coalesce(command_starts[p_commands[k.i] + 1], event_count + 1) - k.i, p_lane, p_command_digests[p_commands[k.i]]
  from unnest(kept) with ordinality k(i, o)
  where command_starts[p_commands[k.i]] = k.i;

  insert into log.event_id (event_id, position, lane, digest)
  select p_event_ids[k.i], head + k.o, p_lane, p_event_digests[k.i]
  from unnest(kept) with ordinality k(i, o);

  insert into log.event (lane, position, version, after_position, recorded_at, event_id, causation_id, stream,
    type, correlation_id, actor, payload)
  select p_lane, head + k.o, p_versions[k.i], domain_head, recorded, p_event_ids[k.i], p_causation_ids[k.i],
    p_streams[k.i], p_types[k.i], p_correlation_ids[k.i], p_actors[k.i], p_payloads[k.i]
  from unnest(kept) with ordinality k(i, o);

  -- Wakes the relay. Only the domain lane is mirrored.
  if p_lane = 1 then
    perform pg_notify('runyard_log', '');
  end if;

  command := null; outcome := 'appended'; first_position := head + 1;
  return next;
end $$
