-- The state transitions, each written once. Every write names the state it expects: zero rows means that
-- someone else won. Batches lock their rows in the order of id, so that two of them cannot deadlock.

CREATE FUNCTION dtq_enqueue(
    p_ids uuid[], p_types text[], p_queue_sets text[], p_queues text[], p_payloads text[],
    p_max_attempts integer[], p_keys text[], p_run_ats timestamptz[], p_grace_seconds double precision
) RETURNS TABLE (id uuid, updated_at timestamptz) LANGUAGE sql AS $$
-- Store tasks. A row that is missing from the answer hit an idempotency key or an inactive type.
    INSERT INTO tasks AS t (
        id, type, queue_set, queue, status, payload, max_attempts, idempotency_key, run_at, needs_publish, publish_at
    )
    SELECT a.id, a.type, a.queue_set, a.queue, 'ENQUEUED', a.payload::jsonb, a.max_attempts, a.key,
        coalesce(a.run_at, now()), true,
        greatest(a.run_at, now() + make_interval(secs => p_grace_seconds))
    FROM unnest(p_ids, p_types, p_queue_sets, p_queues, p_payloads, p_max_attempts, p_keys, p_run_ats)
        AS a (id, type, queue_set, queue, payload, max_attempts, key, run_at)
    JOIN task_type y ON y.type = a.type AND y.active
    ORDER BY a.key, a.id
    ON CONFLICT (idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING t.id, t.updated_at;
$$;

CREATE FUNCTION dtq_replay(p_key text, p_type text, p_payload text)
RETURNS TABLE (id uuid, status text, queue text, same boolean) LANGUAGE sql AS $$
-- Answer an idempotent hit, and pin the row: whoever stored it may no longer undo it. A conflict locks its row too:
-- a row that is being taken back at this moment is no answer, whatever the snapshot still shows.
    WITH pinned AS (
        UPDATE tasks t SET replays = t.replays + 1
        WHERE t.idempotency_key = p_key AND t.type = p_type AND t.payload = p_payload::jsonb
        RETURNING t.id, t.status, t.queue
    ), other AS (
        SELECT t.id, t.status, t.queue FROM tasks t
        WHERE t.idempotency_key = p_key AND NOT (t.type = p_type AND t.payload = p_payload::jsonb)
        FOR KEY SHARE
    )
    SELECT p.id, p.status, p.queue, true FROM pinned p
    UNION ALL
    SELECT o.id, o.status, o.queue, false FROM other o;
$$;

CREATE FUNCTION dtq_undo(p_ids uuid[]) RETURNS TABLE (id uuid) LANGUAGE sql AS $$
-- Take back tasks that the broker refused: only while nobody claimed them and nobody was told that they exist.
    WITH picked AS (
        SELECT t.id FROM tasks t
        WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' AND t.attempts = 0 AND t.replays = 0
        ORDER BY t.id FOR UPDATE
    ), gone AS (
        DELETE FROM tasks t USING picked p WHERE t.id = p.id RETURNING t.id
    ), forgotten AS (
        DELETE FROM task_events e USING gone g WHERE e.task_id = g.id AND e.at > now() - interval '1 hour'
    )
    SELECT g.id FROM gone g;
$$;

CREATE FUNCTION dtq_confirm(p_ids uuid[], p_updated_ats timestamptz[]) RETURNS integer LANGUAGE sql AS $$
-- The broker holds a message for these rows. updated_at is the fence: a row that moved on since is left alone.
    WITH picked AS (
        SELECT t.id FROM tasks t
        JOIN unnest(p_ids, p_updated_ats) AS c (id, updated_at) ON c.id = t.id AND c.updated_at = t.updated_at
        WHERE t.needs_publish
        ORDER BY t.id FOR UPDATE OF t
    ), confirmed AS (
        UPDATE tasks t SET needs_publish = false, publish_at = greatest(t.run_at, now())
        FROM picked p WHERE t.id = p.id AND t.needs_publish
        RETURNING 1
    )
    SELECT count(*)::integer FROM confirmed;
$$;

CREATE FUNCTION dtq_relay(p_limit integer, p_hold_seconds double precision)
RETURNS TABLE (id uuid, type text, queue_set text, queue text, updated_at timestamptz) LANGUAGE sql AS $$
-- Pick what is due to be published and hold it for a while, so that no other relay picks it too.
    WITH due AS (
        SELECT t.id FROM tasks t JOIN queue_set s ON s.name = t.queue_set AND NOT s.paused
        WHERE t.needs_publish AND t.publish_at <= now()
        ORDER BY t.publish_at LIMIT p_limit
        FOR UPDATE OF t SKIP LOCKED
    )
    UPDATE tasks t SET publish_at = now() + make_interval(secs => p_hold_seconds)
    FROM due d WHERE t.id = d.id
    RETURNING t.id, t.type, t.queue_set, t.queue, t.updated_at;
$$;

CREATE FUNCTION dtq_lost(p_queue_set text, p_queue text, p_waiting_seconds double precision, p_limit integer)
RETURNS integer LANGUAGE sql AS $$
-- The broker no longer holds messages for this queue: publish its confirmed, unclaimed tasks again when due.
    WITH lost AS (
        SELECT t.id FROM tasks t
        -- IS NOT NULL says nothing new, but without it the planner does not see that tasks_waiting will do.
        WHERE t.needs_publish = false AND t.needs_publish IS NOT NULL
            AND t.publish_at <= now() - make_interval(secs => p_waiting_seconds)
            AND t.queue_set = p_queue_set AND t.queue = p_queue
        ORDER BY t.publish_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ), marked AS (
        UPDATE tasks t SET needs_publish = true, publish_at = greatest(t.run_at, now()), updated_at = now()
        FROM lost l WHERE t.id = l.id
        RETURNING 1
    )
    SELECT count(*)::integer FROM marked;
$$;

CREATE FUNCTION dtq_claim(p_worker_id uuid, p_ids uuid[], p_types text[], p_early_seconds double precision)
RETURNS TABLE (
    id uuid, type text, queue_set text, queue text, payload text, attempts integer, max_attempts integer,
    crashes integer, timeout_seconds integer, backoff text, slot text
) LANGUAGE plpgsql AS $$
-- Win the right to run. What is due but not for this worker now (too early, paused, no handler, over a limit) goes
-- back to the relay, since its message is about to be acknowledged. Anything else that is missing from the answer is
-- a duplicate, cancelled or finished. The worker row is locked against the reaper, not against renewals; a worker
-- that was reaped while this transaction was under way must not win what no reaper would ever take back.
-- Limits cost a claim nothing while no type has any. A blocked task that nobody unblocks is looked at again by itself.
#variable_conflict use_column
DECLARE
    free uuid[] := '{}';
    slots jsonb := '{}';
BEGIN
    PERFORM 1 FROM workers w
    WHERE w.id = p_worker_id AND w.lease_expires_at > clock_timestamp() AND w.reaped_at IS NULL FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'lease of worker % is gone', p_worker_id USING ERRCODE = 'DTQ01';
    END IF;
    IF EXISTS (SELECT 1 FROM type_limit) THEN
        SELECT coalesce(array_agg(a.id) FILTER (WHERE a.admitted), '{}'), coalesce(jsonb_object_agg(a.id, a.slot), '{}')
        INTO free, slots FROM dtq_admit(p_ids, p_types, p_early_seconds) a;
    END IF;
    RETURN QUERY
    WITH found AS (
        SELECT t.id, t.type, s.paused, t.run_at, (y.type = ANY (p_types)) AS served, y.timeout_seconds, y.backoff,
            slots ->> t.id::text AS slot, slots ? t.id::text AND NOT t.id = ANY (free) AS blocked,
            y.concurrency IS NOT NULL AS counted
        FROM tasks t
        JOIN task_type y ON y.type = t.type
        LEFT JOIN queue_set s ON s.name = t.queue_set
        WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED'
        ORDER BY t.id FOR UPDATE OF t
    ), parked AS (
        UPDATE tasks t SET needs_publish = true, updated_at = now(),
            blocked_on = CASE WHEN f.blocked THEN f.slot END,
            publish_at = greatest(f.run_at, CASE
                WHEN f.blocked THEN now() + interval '5 minutes'
                WHEN f.served THEN now()
                ELSE now() + interval '5 seconds' END)
        FROM found f
        WHERE t.id = f.id AND t.status = 'ENQUEUED' AND (f.paused OR NOT f.served OR f.blocked
            OR f.run_at > now() + make_interval(secs => p_early_seconds))
    )
    UPDATE tasks t SET status = 'RUNNING', attempts = t.attempts + 1, worker_id = p_worker_id,
        needs_publish = NULL, publish_at = NULL, updated_at = now(),
        slot = CASE WHEN f.counted THEN f.slot END, blocked_on = NULL
    FROM found f
    WHERE t.id = f.id AND t.status = 'ENQUEUED' AND f.paused IS NOT TRUE AND f.served AND NOT f.blocked
        AND f.run_at <= now() + make_interval(secs => p_early_seconds)
    RETURNING t.id, t.type, t.queue_set, t.queue, t.payload::text, t.attempts, t.max_attempts, t.crashes,
        f.timeout_seconds, f.backoff::text, t.slot;
END;
$$;

CREATE FUNCTION dtq_finish(
    p_worker_ids uuid[], p_ids uuid[], p_attempts integer[], p_statuses text[], p_results text[], p_errors text[],
    p_delays_seconds double precision[], p_graces_seconds double precision[], p_crashed boolean[], p_drained boolean[]
) RETURNS TABLE (id uuid, status text, updated_at timestamptz) LANGUAGE sql AS $$
-- Record the end of attempts. (worker_id, attempts) is the fence: a row that is missing from the answer was lost
-- to another worker, and its result is void. A retry beyond the budget becomes FAILED whatever was asked, and
-- CANCELLED if that was asked meanwhile; an attempt cut short by a shutdown gives the task one more instead.
-- IS NOT DISTINCT FROM keeps the planner off tasks_worker: it holds every task that the worker ever ran.
    WITH asked AS (
        SELECT a.*,
            CASE
                WHEN a.status = 'ENQUEUED' AND t.cancel_requested_at IS NOT NULL THEN 'CANCELLED'
                WHEN a.status = 'ENQUEUED' AND NOT a.drained AND t.attempts >= t.max_attempts THEN 'FAILED'
                ELSE a.status
            END AS final
        FROM tasks t
        JOIN unnest(p_worker_ids, p_ids, p_attempts, p_statuses, p_results, p_errors, p_delays_seconds,
            p_graces_seconds, p_crashed, p_drained)
            AS a (worker_id, id, attempts, status, result, error, delay_seconds, grace_seconds, crashed, drained)
            ON a.id = t.id
        WHERE t.worker_id IS NOT DISTINCT FROM a.worker_id AND t.attempts = a.attempts AND t.status = 'RUNNING'
        ORDER BY t.id FOR UPDATE OF t
    )
    UPDATE tasks t SET
        status = a.final,
        result = a.result::jsonb,
        last_error = coalesce(a.error, CASE WHEN a.final = 'SUCCEEDED' THEN NULL ELSE t.last_error END),
        run_at = CASE WHEN a.final = 'ENQUEUED' THEN now() + make_interval(secs => a.delay_seconds) ELSE t.run_at END,
        needs_publish = CASE WHEN a.final = 'ENQUEUED' THEN true END,
        publish_at = CASE WHEN a.final = 'ENQUEUED'
            THEN now() + make_interval(secs => a.delay_seconds + a.grace_seconds) END,
        failed_at = CASE WHEN a.final = 'FAILED' THEN now() END,
        max_attempts = CASE WHEN a.final = 'ENQUEUED' AND a.drained
            THEN greatest(t.max_attempts, t.attempts + 1) ELSE t.max_attempts END,
        crashes = t.crashes + a.crashed::integer,
        cancel_requested_at = NULL,
        slot = NULL,
        updated_at = now()
    FROM asked a
    WHERE t.id = a.id AND t.worker_id IS NOT DISTINCT FROM a.worker_id AND t.attempts = a.attempts
        AND t.status = 'RUNNING'
    RETURNING t.id, t.status, t.updated_at;
$$;

CREATE FUNCTION dtq_release(p_worker_id uuid, p_ids uuid[]) RETURNS TABLE (id uuid) LANGUAGE sql AS $$
-- Give back claims whose handler never started: the attempt is not counted, and the relay publishes at once.
-- A task that was cancelled meanwhile ends here, its attempt counted. The worker alone is the fence: only it knows
-- what it never started, and its id is never used again.
    WITH picked AS (
        SELECT t.id FROM tasks t
        WHERE t.id = ANY (p_ids) AND t.worker_id IS NOT DISTINCT FROM p_worker_id AND t.status = 'RUNNING'
        ORDER BY t.id FOR UPDATE
    )
    UPDATE tasks t SET updated_at = now(), slot = NULL,
        attempts = CASE WHEN t.cancel_requested_at IS NULL THEN t.attempts - 1 ELSE t.attempts END,
        status = CASE WHEN t.cancel_requested_at IS NULL THEN 'ENQUEUED' ELSE 'CANCELLED' END,
        needs_publish = CASE WHEN t.cancel_requested_at IS NULL THEN true END,
        publish_at = CASE WHEN t.cancel_requested_at IS NULL THEN now() END
    FROM picked p WHERE t.id = p.id AND t.status = 'RUNNING'
    RETURNING t.id;
$$;

CREATE FUNCTION dtq_register(
    p_id uuid, p_name text, p_queues text[], p_types text[], p_concurrency integer, p_lease_seconds double precision
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO workers (id, name, queues, types, concurrency, lease_expires_at)
    VALUES (p_id, p_name, p_queues, p_types, p_concurrency, now() + make_interval(secs => p_lease_seconds));
$$;

CREATE FUNCTION dtq_renew(p_id uuid, p_lease_seconds double precision, p_running jsonb DEFAULT '{}')
RETURNS TABLE (renewed boolean, cancel_ids uuid[]) LANGUAGE sql AS $$
-- Extend a lease that has not expired; an expired one never comes back, not even for a renewal that has waited
-- for the reaper: hence the clock instead of now(). It says what runs, and the answer carries cancel requests.
    WITH renewal AS (
        UPDATE workers SET lease_expires_at = now() + make_interval(secs => p_lease_seconds), running = p_running
        WHERE id = p_id AND lease_expires_at > clock_timestamp() AND reaped_at IS NULL
        RETURNING id
    )
    SELECT EXISTS (SELECT 1 FROM renewal),
        coalesce((SELECT array_agg(t.id) FROM tasks t
            WHERE t.worker_id = p_id AND t.cancel_requested_at IS NOT NULL AND t.status = 'RUNNING'
                AND EXISTS (SELECT 1 FROM renewal)), '{}');
$$;

CREATE FUNCTION dtq_expire(p_id uuid) RETURNS void LANGUAGE sql AS $$
-- The worker is done: whatever it still holds may be taken back at once.
    UPDATE workers SET lease_expires_at = now() WHERE id = p_id AND lease_expires_at > now();
$$;

CREATE FUNCTION dtq_cancel(p_id uuid) RETURNS TABLE (id uuid, status text, requested boolean) LANGUAGE plpgsql AS $$
-- Cancel what waits; ask the worker to stop what runs. A terminal task is left alone. One UPDATE decides by the row
-- as it is once it is locked: between two of them a task that is claimed at this moment would slip through.
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE tasks t SET
        status = CASE t.status WHEN 'ENQUEUED' THEN 'CANCELLED' ELSE t.status END,
        needs_publish = NULL,
        publish_at = NULL,
        blocked_on = NULL,
        last_error = CASE t.status WHEN 'ENQUEUED' THEN 'cancelled before it ran' ELSE t.last_error END,
        updated_at = CASE t.status WHEN 'ENQUEUED' THEN now() ELSE t.updated_at END,
        cancel_requested_at = CASE t.status WHEN 'RUNNING' THEN coalesce(t.cancel_requested_at, now()) END
    WHERE t.id = p_id AND t.status IN ('ENQUEUED', 'RUNNING')
    RETURNING t.id, t.status, true;
    IF NOT FOUND THEN
        RETURN QUERY SELECT t.id, t.status, false FROM tasks t WHERE t.id = p_id;
    END IF;
END;
$$;

CREATE FUNCTION dtq_redrive(p_ids uuid[]) RETURNS TABLE (id uuid, queue_set text) LANGUAGE sql AS $$
-- A person sends failed tasks again with a fresh budget. Attempt numbers go on, so that the fence stays unique.
    WITH picked AS (
        SELECT t.id, y.default_max_attempts AS budget FROM tasks t JOIN task_type y ON y.type = t.type
        WHERE t.id = ANY (p_ids) AND t.status = 'FAILED'
        ORDER BY t.id FOR UPDATE OF t
    )
    UPDATE tasks t SET status = 'ENQUEUED', max_attempts = t.attempts + p.budget, crashes = 0,
        redrives = t.redrives + 1, run_at = now(), needs_publish = true, publish_at = now(),
        failed_at = NULL, dead_lettered_at = NULL, updated_at = now()
    FROM picked p WHERE t.id = p.id AND t.status = 'FAILED'
    RETURNING t.id, t.queue_set;
$$;

CREATE FUNCTION dtq_dead_letter(p_ids uuid[], p_updated_ats timestamptz[]) RETURNS integer LANGUAGE sql AS $$
-- The broker confirmed the copies in the dead letter queue.
    WITH picked AS (
        SELECT t.id FROM tasks t JOIN unnest(p_ids, p_updated_ats) AS c (id, updated_at) ON c.id = t.id
        WHERE t.status = 'FAILED' AND t.dead_lettered_at IS NULL AND t.updated_at = c.updated_at
        ORDER BY t.id FOR UPDATE OF t
    ), marked AS (
        UPDATE tasks t SET dead_lettered_at = now() FROM picked p
        WHERE t.id = p.id AND t.dead_lettered_at IS NULL
        RETURNING t.id, t.last_error, t.attempts, t.worker_id
    ), recorded AS (
        INSERT INTO task_events (task_id, event, note, attempt, worker_id)
        SELECT m.id, 'DLQ', m.last_error, m.attempts, m.worker_id FROM marked m
        RETURNING 1
    )
    SELECT count(*)::integer FROM recorded;
$$;
