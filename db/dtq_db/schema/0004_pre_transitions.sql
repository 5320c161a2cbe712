-- The state transitions, each written once. Every write names the state that it expects: zero rows means that
-- another process won. Batches lock their rows in the order of id, so that two batches cannot deadlock: either by a
-- SELECT ... FOR UPDATE, or, where each row is changed by its own values alone, by a plan that can only be a scan of the
-- primary key (no bitmap) or a merge by id. A lock of its own costs each row a WAL record and a second visit.
--
-- No plan may depend on the last ANALYZE. So every mention of tasks in a batch has `id = ANY (...)` beside its join,
-- and a condition that would make a partial index eligible is tested on the rows that were found. Batches are
-- joined by hash (a nested loop costs their square), whatever the session allows.

CREATE FUNCTION dtq_enqueue(
    p_ids uuid[], p_types text[], p_queue_sets text[], p_queues text[], p_payloads text[],
    p_max_attempts integer[], p_keys text[], p_run_ats timestamptz[], p_grace_seconds double precision
) RETURNS TABLE (id uuid, updated_at timestamptz) LANGUAGE plpgsql AS $$
-- Store tasks. A row that is missing from the answer met an existing idempotency key or an inactive type. The types
-- stay locked against deletion until the end of the transaction.
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH known AS (
        SELECT y.type FROM task_type y WHERE y.type = ANY (p_types) AND y.active ORDER BY y.type FOR KEY SHARE
    )
    INSERT INTO tasks AS t (
        id, type, queue_set, queue, status, payload, max_attempts, idempotency_key, run_at, needs_publish, publish_at
    )
    SELECT a.id, a.type, a.queue_set, a.queue, 'ENQUEUED', a.payload::jsonb, a.max_attempts, a.key,
        coalesce(a.run_at, now()), true,
        greatest(a.run_at, now() + make_interval(secs => p_grace_seconds))
    FROM unnest(p_ids, p_types, p_queue_sets, p_queues, p_payloads, p_max_attempts, p_keys, p_run_ats)
        AS a (id, type, queue_set, queue, payload, max_attempts, key, run_at)
    JOIN known y ON y.type = a.type
    ORDER BY a.type, a.key, a.id
    ON CONFLICT (type, idempotency_key) WHERE idempotency_key IS NOT NULL DO NOTHING
    RETURNING t.id, t.updated_at;
END;
$$;

CREATE FUNCTION dtq_replay(p_key text, p_type text, p_payload text)
RETURNS TABLE (id uuid, status text, queue text, same boolean) LANGUAGE sql AS $$
-- Answer an idempotent hit, and pin the row: the request that stored it may no longer undo it. A conflict locks its row
-- too: a row that is being taken back at this moment is not an answer, even if the snapshot still shows it.
    WITH pinned AS (
        UPDATE tasks t SET replays = t.replays + 1
        WHERE t.type = p_type AND t.idempotency_key = p_key AND t.payload = p_payload::jsonb
        RETURNING t.id, t.status, t.queue
    ), other AS (
        SELECT t.id, t.status, t.queue FROM tasks t
        WHERE t.type = p_type AND t.idempotency_key = p_key AND t.payload <> p_payload::jsonb
        FOR KEY SHARE
    )
    SELECT p.id, p.status, p.queue, true FROM pinned p
    UNION ALL
    SELECT o.id, o.status, o.queue, false FROM other o;
$$;

CREATE FUNCTION dtq_undo(p_ids uuid[]) RETURNS TABLE (id uuid) LANGUAGE plpgsql SET enable_seqscan = off AS $$
-- Take back tasks that the broker refused, if they are unclaimed and not pinned: no client was told that they exist.
#variable_conflict use_column
DECLARE
    gone uuid[];
BEGIN
    WITH picked AS (
        SELECT t.id FROM tasks t
        WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' AND t.attempts = 0 AND t.replays = 0
        ORDER BY t.id FOR UPDATE
    )
    SELECT array_agg(p.id) INTO gone FROM picked p;
    DELETE FROM tasks t WHERE t.id = ANY (gone);
    DELETE FROM task_events e WHERE e.task_id = ANY (gone) AND e.at > now() - interval '1 hour';
    RETURN QUERY SELECT unnest(gone);
END;
$$;

CREATE FUNCTION dtq_confirm(p_ids uuid[], p_updated_ats timestamptz[]) RETURNS integer LANGUAGE plpgsql
SET enable_seqscan = off SET enable_nestloop = off SET enable_hashjoin = off SET enable_bitmapscan = off
SET enable_sort = on AS $$
-- The broker holds a message for these rows. updated_at is the fence: a row that has changed since is left alone.
DECLARE
    confirmed integer;
BEGIN
    UPDATE tasks t SET needs_publish = false, publish_at = greatest(t.run_at, now())
    FROM unnest(p_ids, p_updated_ats) AS c (id, updated_at)
    WHERE t.id = c.id AND t.id = ANY (p_ids) AND t.updated_at = c.updated_at AND coalesce(t.needs_publish, false);
    GET DIAGNOSTICS confirmed = ROW_COUNT;
    RETURN confirmed;
END;
$$;

CREATE FUNCTION dtq_relay(p_limit integer, p_hold_seconds double precision, p_without text[])
RETURNS TABLE (id uuid, type text, queue_set text, queue text, updated_at timestamptz) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Pick tasks that are due to be published, up to p_limit per queue, and hold them for a while, so that no other relay
-- picks them too. Tasks of the queue sets p_without wait: RabbitMQ refuses those sets.
#variable_conflict use_column
DECLARE
    picked uuid[];
BEGIN
    SELECT array_agg(d.id) INTO picked FROM queue q
    JOIN queue_set s ON s.name = q.queue_set AND NOT s.paused AND s.name <> ALL (p_without)
    CROSS JOIN LATERAL (
        SELECT t.id FROM tasks t
        WHERE t.needs_publish AND t.queue_set = q.queue_set AND t.queue = q.name AND t.publish_at <= now()
        ORDER BY t.publish_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) AS d;
    RETURN QUERY
    UPDATE tasks t SET publish_at = now() + make_interval(secs => p_hold_seconds) WHERE t.id = ANY (picked)
    RETURNING t.id, t.type, t.queue_set, t.queue, t.updated_at;
END;
$$;

CREATE FUNCTION dtq_lost(p_queue_set text, p_queue text, p_waiting_seconds double precision, p_limit integer)
RETURNS integer LANGUAGE plpgsql SET enable_seqscan = off AS $$
-- The broker no longer holds messages for this queue: publish its confirmed, unclaimed tasks again when due.
DECLARE
    lost uuid[];
BEGIN
    SELECT array_agg(l.id) INTO lost FROM (
        SELECT t.id FROM tasks t
        WHERE NOT t.needs_publish AND t.queue_set = p_queue_set AND t.queue = p_queue
            AND t.publish_at <= now() - make_interval(secs => p_waiting_seconds)
        ORDER BY t.publish_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) AS l;
    UPDATE tasks t SET needs_publish = true, publish_at = greatest(t.run_at, now()), updated_at = now()
    WHERE t.id = ANY (lost);
    RETURN coalesce(cardinality(lost), 0);
END;
$$;

CREATE FUNCTION dtq_claim(p_worker_id uuid, p_ids uuid[], p_types text[], p_early_seconds double precision)
RETURNS TABLE (
    id uuid, type text, queue_set text, queue text, payload text, attempts integer, max_attempts integer,
    crashes integer, timeout_seconds integer, backoff text, slot text, uncounted_attempts integer,
    suspected_seconds double precision
) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_nestloop = off SET enable_bitmapscan = off SET enable_sort = on AS $$
-- Win the right to run. p_types are types that the worker handles: at least those that the messages name. A task that
-- this worker may not run now (too early, paused, no handler, over a limit) goes back to the relay, since its message is
-- about to be acknowledged. Any other task that is missing from the answer is a duplicate, cancelled or finished. The
-- worker row is locked against the reaper, not against renewals; a worker that was reaped while this transaction was
-- under way must not win tasks that no reaper would ever take back.
-- A task with suspected_seconds is a suspect: its worker starts it alone (dtq_run_alone) or releases it.
-- Limits cost a claim nothing while no type has limits. Claims are also recorded in worker_claims, where the reaper
-- finds them: an index of tasks by worker would hold their whole history. A blocked task that is not unblocked is
-- published again after a while. The oldest task comes first: suspects run in this order.
#variable_conflict use_column
DECLARE
    free uuid[] := '{}';
    slots jsonb := '{}';
    limited boolean := false;
    served text[];
    counted text[];
    paused text[] := ARRAY(SELECT s.name FROM queue_set s WHERE s.paused);
    won integer;
BEGIN
    PERFORM 1 FROM workers w
    WHERE w.id = p_worker_id AND w.lease_expires_at > clock_timestamp() AND w.reaped_at IS NULL FOR KEY SHARE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'lease of worker % is gone', p_worker_id USING ERRCODE = 'DTQ01';
    END IF;
    IF EXISTS (SELECT 1 FROM type_limit) THEN
        SELECT coalesce(array_agg(a.id) FILTER (WHERE a.admitted), '{}'), coalesce(jsonb_object_agg(a.id, a.slot), '{}')
        INTO free, slots FROM dtq_admit(p_ids, p_types, p_early_seconds) a;
        limited := slots <> '{}';
    END IF;
    SELECT coalesce(array_agg(y.type), '{}'),
        coalesce(array_agg(y.type) FILTER (WHERE y.concurrency IS NOT NULL), '{}')
    INTO served, counted FROM task_type y WHERE y.type = ANY (p_types);
    RETURN QUERY
    WITH won AS (
        UPDATE tasks t SET status = 'RUNNING', attempts = t.attempts + 1, worker_id = p_worker_id,
            needs_publish = NULL, publish_at = NULL, updated_at = now(), blocked_on = NULL,
            slot = CASE WHEN t.type = ANY (counted) THEN slots ->> t.id::text END
        WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' AND t.type = ANY (served)
            AND t.queue_set <> ALL (paused) AND t.run_at <= now() + make_interval(secs => p_early_seconds)
            AND (NOT limited OR NOT slots ? t.id::text OR t.id = ANY (free))
        RETURNING t.*
    ), noted AS (
        INSERT INTO worker_claims (worker_id, task_ids)
        SELECT p_worker_id, array_agg(c.id) FROM (
            SELECT w.id, (row_number() OVER () - 1) / 100 AS chunk FROM won w
        ) AS c GROUP BY c.chunk
    )
    SELECT w.id, w.type, w.queue_set, w.queue, w.payload::text, w.attempts, w.max_attempts, w.crashes,
        y.timeout_seconds, y.backoff::text, w.slot, coalesce(w.uncounted_attempts, 0),
        extract(epoch FROM now() - w.suspected_at)::double precision
    FROM won w JOIN task_type y ON y.type = w.type AND y.type = ANY (served)
    ORDER BY w.id;
    GET DIAGNOSTICS won = ROW_COUNT;
    IF won = cardinality(p_ids) THEN
        RETURN;
    END IF;
    UPDATE tasks t SET needs_publish = true, updated_at = now(),
        blocked_on = CASE WHEN limited AND slots ? t.id::text AND NOT t.id = ANY (free) THEN slots ->> t.id::text END,
        publish_at = greatest(t.run_at, CASE
            WHEN limited AND slots ? t.id::text AND NOT t.id = ANY (free) THEN now() + interval '5 minutes'
            WHEN t.type = ANY (served) THEN now()
            -- A worker with a handler may be busy or away; while no live worker handles the type, try less often.
            WHEN EXISTS (SELECT 1 FROM workers w WHERE w.lease_expires_at > now() AND t.type = ANY (w.types))
                THEN now() + interval '5 seconds'
            ELSE now() + interval '15 seconds' END)
    WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED';
END;
$$;

CREATE FUNCTION dtq_snooze_bound(p_snoozes integer, p_since timestamptz) RETURNS text LANGUAGE sql STABLE
-- Why a task may not be snoozed once more; null if it may.
RETURN CASE
    WHEN p_snoozes >= 1000 THEN 'snoozed 1000 times, the most that are allowed'
    WHEN p_since < now() - interval '30 days' THEN 'snoozed for 30 days, the longest that is allowed'
END;

CREATE FUNCTION dtq_run_alone(p_worker_id uuid, p_id uuid, p_attempts integer) RETURNS boolean LANGUAGE sql AS $$
-- The worker runs nothing else and starts this suspect now. From now on, a loss of the worker is charged to the task.
-- Returns false if the task was taken away or the lease is lost.
    WITH started AS (
        UPDATE tasks t SET alone_at = now()
        WHERE t.id = p_id AND t.worker_id = p_worker_id AND t.attempts = p_attempts
            AND t.status = 'RUNNING' AND t.suspected_at IS NOT NULL
            AND EXISTS (SELECT 1 FROM workers w WHERE w.id = p_worker_id
                AND w.lease_expires_at > clock_timestamp() AND w.reaped_at IS NULL)
        RETURNING 1
    )
    SELECT EXISTS (SELECT 1 FROM started);
$$;

CREATE FUNCTION dtq_finish(
    p_worker_ids uuid[], p_ids uuid[], p_attempts integer[], p_statuses text[], p_results text[], p_errors text[],
    p_delays_seconds double precision[], p_graces_seconds double precision[], p_crashed boolean[], p_drained boolean[],
    p_tracebacks text[] DEFAULT NULL, p_snoozed boolean[] DEFAULT NULL, p_suspected boolean[] DEFAULT NULL
) RETURNS TABLE (id uuid, status text, updated_at timestamptz) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_nestloop = off SET enable_hashjoin = off SET enable_bitmapscan = off
SET enable_sort = on AS $$
-- Record the end of attempts. (worker_id, attempts) is the fence: a row that is missing from the answer was lost
-- to another worker, and its result is void. A retry beyond the budget becomes FAILED in any case, and CANCELLED if a
-- cancel was requested meanwhile. An attempt is not counted, so that the task gets another one, if it was snoozed, if
-- it was the last attempt and a shutdown cut it short, or if its worker was lost and another task may be the cause
-- (p_suspected, set by the reaper). A task stays a suspect until one of its attempts ends normally.
-- A success, which is most of them, is written by its own values alone.
#variable_conflict use_column
BEGIN
    IF 'SUCCEEDED' = ANY (p_statuses) THEN
        RETURN QUERY
        UPDATE tasks t SET status = 'SUCCEEDED', result = a.result::jsonb, last_error = a.error,
            last_traceback = a.traceback, suspected_at = NULL, alone_at = NULL, cancel_requested_at = NULL, slot = NULL,
            updated_at = now()
        FROM unnest(p_worker_ids, p_ids, p_attempts, p_statuses, p_results, p_errors, p_tracebacks)
            AS a (worker_id, id, attempts, status, result, error, traceback)
        WHERE t.id = a.id AND t.id = ANY (p_ids) AND a.status = 'SUCCEEDED'
            AND t.worker_id = a.worker_id AND t.attempts = a.attempts AND t.status = 'RUNNING'
        RETURNING t.id, t.status, t.updated_at;
    END IF;
    IF 'SUCCEEDED' = ALL (p_statuses) THEN
        RETURN;
    END IF;
    RETURN QUERY
    WITH asked AS (
        SELECT a.*,
            CASE
                WHEN a.status = 'ENQUEUED' AND t.cancel_requested_at IS NOT NULL THEN 'CANCELLED'
                WHEN a.status = 'ENQUEUED' AND a.snoozed
                    THEN CASE WHEN bound.reason IS NULL THEN 'ENQUEUED' ELSE 'FAILED' END
                WHEN a.status = 'ENQUEUED' AND NOT a.drained AND a.suspected IS NOT TRUE
                    AND t.attempts >= t.max_attempts THEN 'FAILED'
                ELSE a.status
            END AS final,
            bound.reason || coalesce(': ' || a.error, '') AS bound_error,
            CASE
                WHEN a.status <> 'ENQUEUED' THEN 0
                WHEN a.snoozed OR a.suspected THEN 1
                WHEN a.drained THEN greatest(0, t.attempts + 1 - t.max_attempts)
                ELSE 0
            END AS granted
        FROM tasks t
        JOIN unnest(p_worker_ids, p_ids, p_attempts, p_statuses, p_results, p_errors, p_delays_seconds,
            p_graces_seconds, p_crashed, p_drained, p_tracebacks, p_snoozed, p_suspected)
            AS a (worker_id, id, attempts, status, result, error, delay_seconds, grace_seconds, crashed, drained,
                traceback, snoozed, suspected)
            ON a.id = t.id
        CROSS JOIN LATERAL (
            SELECT CASE WHEN a.snoozed THEN dtq_snooze_bound(t.snoozes, t.snoozed_since) END AS reason) AS bound
        WHERE t.id = ANY (p_ids) AND a.status <> 'SUCCEEDED'
            AND t.worker_id = a.worker_id AND t.attempts = a.attempts AND t.status = 'RUNNING'
        ORDER BY t.id FOR UPDATE OF t
    )
    UPDATE tasks t SET
        status = a.final,
        result = a.result::jsonb,
        last_error = coalesce(a.bound_error, a.error, t.last_error),
        last_traceback = CASE WHEN a.error IS NULL THEN t.last_traceback ELSE a.traceback END,
        run_at = CASE WHEN a.final = 'ENQUEUED' THEN now() + make_interval(secs => a.delay_seconds) ELSE t.run_at END,
        needs_publish = CASE WHEN a.final = 'ENQUEUED' THEN true END,
        publish_at = CASE WHEN a.final = 'ENQUEUED'
            THEN now() + make_interval(secs => a.delay_seconds + a.grace_seconds) END,
        cancelled_at = CASE WHEN a.final = 'CANCELLED' THEN now() END,
        failed_at = CASE WHEN a.final = 'FAILED' THEN now() END,
        dead_letter_at = CASE WHEN a.final = 'FAILED' THEN now() END,
        max_attempts = t.max_attempts + CASE WHEN a.final = 'ENQUEUED' THEN a.granted ELSE 0 END,
        uncounted_attempts = CASE WHEN a.final = 'ENQUEUED' AND a.granted > 0
            THEN coalesce(t.uncounted_attempts, 0) + a.granted ELSE t.uncounted_attempts END,
        snoozes = CASE WHEN a.final = 'ENQUEUED' AND a.snoozed THEN coalesce(t.snoozes, 0) + 1 ELSE t.snoozes END,
        snoozed_since = CASE WHEN a.final = 'ENQUEUED' AND a.snoozed
            THEN coalesce(t.snoozed_since, now()) ELSE t.snoozed_since END,
        crashes = t.crashes + a.crashed::integer,
        suspected_at = CASE
            WHEN a.final = 'ENQUEUED' AND (a.suspected OR a.crashed) THEN coalesce(t.suspected_at, now())
            WHEN a.final = 'ENQUEUED' AND a.drained THEN t.suspected_at END,
        alone_at = NULL,
        cancel_requested_at = NULL,
        slot = NULL,
        updated_at = now()
    FROM asked a
    WHERE t.id = a.id AND t.id = ANY (p_ids)
    RETURNING t.id, t.status, t.updated_at;
END;
$$;

CREATE FUNCTION dtq_release(p_worker_id uuid, p_ids uuid[]) RETURNS TABLE (id uuid) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Give back claims whose handler never started: the attempt is not counted, and the relay publishes the task at once.
-- A task that was cancelled meanwhile ends here, and its attempt is counted. The worker alone is the fence: only it
-- knows what it never started, and its id is never used again.
#variable_conflict use_column
DECLARE
    unstarted uuid[];
BEGIN
    WITH picked AS (
        SELECT t.id FROM tasks t
        WHERE t.id = ANY (p_ids) AND t.worker_id = p_worker_id AND t.status = 'RUNNING'
        ORDER BY t.id FOR UPDATE
    )
    SELECT array_agg(p.id) INTO unstarted FROM picked p;
    RETURN QUERY
    UPDATE tasks t SET updated_at = now(), slot = NULL, alone_at = NULL,
        suspected_at = CASE WHEN t.cancel_requested_at IS NULL THEN t.suspected_at END,
        attempts = CASE WHEN t.cancel_requested_at IS NULL THEN t.attempts - 1 ELSE t.attempts END,
        status = CASE WHEN t.cancel_requested_at IS NULL THEN 'ENQUEUED' ELSE 'CANCELLED' END,
        needs_publish = CASE WHEN t.cancel_requested_at IS NULL THEN true END,
        publish_at = CASE WHEN t.cancel_requested_at IS NULL THEN now() END,
        cancelled_at = CASE WHEN t.cancel_requested_at IS NOT NULL THEN now() END
    WHERE t.id = ANY (unstarted)
    RETURNING t.id;
END;
$$;

CREATE FUNCTION dtq_register(
    p_id uuid, p_name text, p_queues text[], p_types text[], p_concurrency integer, p_lease_seconds double precision,
    p_namespace text DEFAULT NULL, p_memory jsonb DEFAULT NULL
) RETURNS void LANGUAGE sql AS $$
    INSERT INTO workers (id, name, queues, types, concurrency, namespace, lease_expires_at, memory_group, memory)
    VALUES (p_id, p_name, p_queues, p_types, p_concurrency, p_namespace,
        now() + make_interval(secs => p_lease_seconds), p_memory ->> 'group', p_memory);
$$;

CREATE FUNCTION dtq_held(p_worker_ids uuid[]) RETURNS SETOF uuid LANGUAGE sql STABLE
SET enable_seqscan = off AS $$
-- The tasks that these workers run. The cost is bounded by what they run and have claimed since their last renewals.
    SELECT DISTINCT t.id
    FROM unnest(p_worker_ids) AS w (id)
    CROSS JOIN LATERAL (
        SELECT unnest(c.task_ids) AS task_id FROM worker_claims c WHERE c.worker_id = w.id OFFSET 0
    ) AS c
    CROSS JOIN LATERAL (
        SELECT t.id FROM tasks t WHERE t.id = c.task_id AND t.worker_id = w.id AND t.status = 'RUNNING' OFFSET 0
    ) AS t;
$$;

CREATE FUNCTION dtq_forget_ended(p_worker_id uuid) RETURNS void LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Reduce a worker's claims to the tasks that it still runs, once there are many batches of claims.
DECLARE
    batches tid[];
BEGIN
    batches := ARRAY(SELECT c.ctid FROM worker_claims c WHERE c.worker_id = p_worker_id LIMIT 500);
    IF cardinality(batches) <= 16 THEN
        RETURN;
    END IF;
    WITH gone AS (
        DELETE FROM worker_claims c WHERE c.ctid = ANY (batches) RETURNING c.task_ids
    ), held AS (
        SELECT DISTINCT t.id FROM gone g
        CROSS JOIN LATERAL unnest(g.task_ids) AS c (id)
        CROSS JOIN LATERAL (
            SELECT t.id FROM tasks t WHERE t.id = c.id AND t.worker_id = p_worker_id AND t.status = 'RUNNING' OFFSET 0
        ) AS t
    )
    INSERT INTO worker_claims (worker_id, task_ids)
    SELECT p_worker_id, array_agg(h.id) FROM (
        SELECT id, (row_number() OVER () - 1) / 100 AS chunk FROM held
    ) AS h GROUP BY h.chunk;
END;
$$;

CREATE FUNCTION dtq_renew(
    p_id uuid, p_lease_seconds double precision, p_running jsonb DEFAULT '{}', p_memory jsonb DEFAULT NULL
) RETURNS TABLE (renewed boolean, cancel_ids uuid[]) LANGUAGE plpgsql AS $$
-- Renew a lease that has not expired. An expired lease is never renewed, not even by a renewal that has waited
-- for the reaper: hence the clock instead of now(). The call reports what runs, and the answer holds cancel requests.
BEGIN
    UPDATE workers SET lease_expires_at = now() + make_interval(secs => p_lease_seconds), running = p_running,
        memory = p_memory
    WHERE id = p_id AND lease_expires_at > clock_timestamp() AND reaped_at IS NULL;
    IF NOT FOUND THEN
        RETURN QUERY SELECT false, '{}'::uuid[];
        RETURN;
    END IF;
    PERFORM dtq_forget_ended(p_id);
    RETURN QUERY SELECT true, ARRAY(
        SELECT t.id FROM tasks t WHERE t.worker_id = p_id AND t.cancel_requested_at IS NOT NULL AND t.status = 'RUNNING'
    );
END;
$$;

CREATE FUNCTION dtq_expire(p_id uuid) RETURNS void LANGUAGE sql AS $$
-- The worker is done: tasks that it still holds may be taken back at once.
    UPDATE workers SET lease_expires_at = now() WHERE id = p_id AND lease_expires_at > now();
$$;

CREATE FUNCTION dtq_cancel(p_id uuid) RETURNS TABLE (id uuid, status text, requested boolean) LANGUAGE plpgsql AS $$
-- Cancel a waiting task; ask the worker to stop a running one. A terminal task is left alone. One UPDATE decides by the
-- row as it is once locked: with two UPDATEs, a task that is claimed between them would be missed.
#variable_conflict use_column
BEGIN
    RETURN QUERY
    UPDATE tasks t SET
        status = CASE t.status WHEN 'ENQUEUED' THEN 'CANCELLED' ELSE t.status END,
        cancelled_at = CASE t.status WHEN 'ENQUEUED' THEN now() END,
        needs_publish = NULL,
        publish_at = NULL,
        blocked_on = NULL,
        suspected_at = CASE t.status WHEN 'RUNNING' THEN t.suspected_at END,
        last_error = CASE t.status WHEN 'ENQUEUED' THEN 'cancelled before it ran' ELSE t.last_error END,
        last_traceback = CASE t.status WHEN 'ENQUEUED' THEN NULL ELSE t.last_traceback END,
        updated_at = CASE t.status WHEN 'ENQUEUED' THEN now() ELSE t.updated_at END,
        cancel_requested_at = CASE t.status WHEN 'RUNNING' THEN coalesce(t.cancel_requested_at, now()) END
    WHERE t.id = p_id AND t.status IN ('ENQUEUED', 'RUNNING')
    RETURNING t.id, t.status, true;
    IF NOT FOUND THEN
        RETURN QUERY SELECT t.id, t.status, false FROM tasks t WHERE t.id = p_id;
    END IF;
END;
$$;

CREATE FUNCTION dtq_redrive(p_ids uuid[]) RETURNS TABLE (id uuid, queue_set text) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_nestloop = off SET enable_sort = on AS $$
-- Redrive failed tasks, each with a fresh attempt budget. Attempt numbers go on, so that the fence stays unique;
-- earlier attempts are not counted.
#variable_conflict use_column
BEGIN
    RETURN QUERY
    WITH picked AS (
        SELECT t.id FROM tasks t
        WHERE t.id = ANY (p_ids) AND t.status = 'FAILED'
        ORDER BY t.id FOR UPDATE
    )
    UPDATE tasks t SET status = 'ENQUEUED', crashes = 0, snoozes = NULL, snoozed_since = NULL,
        max_attempts = t.attempts + t.max_attempts - coalesce(t.uncounted_attempts, 0),
        uncounted_attempts = nullif(t.attempts, 0),
        redrives = t.redrives + 1, run_at = now(), needs_publish = true, publish_at = now(),
        failed_at = NULL, dead_letter_at = NULL, dead_lettered_at = NULL, updated_at = now()
    FROM picked p WHERE t.id = p.id AND t.id = ANY (p_ids)
    RETURNING t.id, t.queue_set;
END;
$$;

CREATE FUNCTION dtq_dead_letters_due(p_age_seconds double precision, p_limit integer, p_without text[])
RETURNS TABLE (id uuid, type text, queue_set text, queue text, updated_at timestamptz) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Pick failed tasks, up to p_limit per queue set, whose copy has been due in the dead letter queue for p_age_seconds,
-- and hold them as long, so that no other relay picks them. Tasks of the queue sets p_without wait.
#variable_conflict use_column
DECLARE
    picked uuid[];
BEGIN
    SELECT array_agg(d.id) INTO picked FROM queue_set s
    CROSS JOIN LATERAL (
        SELECT t.id FROM tasks t
        WHERE t.queue_set = s.name AND t.dead_letter_at <= now() - make_interval(secs => p_age_seconds)
        ORDER BY t.dead_letter_at LIMIT p_limit
        FOR UPDATE SKIP LOCKED
    ) AS d
    WHERE s.dead_letter AND s.name <> ALL (p_without);
    RETURN QUERY
    UPDATE tasks t SET dead_letter_at = now() WHERE t.id = ANY (picked)
    RETURNING t.id, t.type, t.queue_set, t.queue, t.updated_at;
END;
$$;

CREATE FUNCTION dtq_dead_letter(p_ids uuid[], p_updated_ats timestamptz[]) RETURNS integer LANGUAGE plpgsql
SET enable_seqscan = off SET enable_nestloop = off SET enable_sort = on AS $$
-- The broker confirmed the copies in the dead letter queue.
DECLARE
    copied uuid[];
BEGIN
    WITH found AS (
        SELECT t.id, t.status, t.updated_at, t.dead_lettered_at FROM tasks t WHERE t.id = ANY (p_ids)
        ORDER BY t.id FOR UPDATE
    )
    SELECT array_agg(f.id) INTO copied
    FROM unnest(p_ids, p_updated_ats) AS c (id, updated_at)
    JOIN found f ON f.id = c.id AND f.updated_at = c.updated_at
    WHERE f.status = 'FAILED' AND f.dead_lettered_at IS NULL;
    WITH marked AS (
        UPDATE tasks t SET dead_lettered_at = now(), dead_letter_at = NULL WHERE t.id = ANY (copied)
        RETURNING t.id, t.last_error, t.attempts, t.worker_id
    )
    INSERT INTO task_events (task_id, event, note, attempt, worker_id)
    SELECT m.id, 'DLQ', m.last_error, m.attempts, m.worker_id FROM marked m;
    RETURN coalesce(cardinality(copied), 0);
END;
$$;

CREATE FUNCTION dtq_begin_deletion(p_type text)
RETURNS TABLE (first_id uuid, looked_through uuid, last_id uuid) LANGUAGE plpgsql AS $$
-- Begin or continue the walk that searches for tasks of an inactive type. A transaction that enqueues tasks of the type
-- locks its row until the end: once we have held that lock, every task that there will ever be is in the table.
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM task_type y WHERE y.type = p_type AND NOT y.active FOR UPDATE;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO task_type_deletion (type, looked_through, last_id)
    SELECT p_type, zero, coalesce((SELECT t.id FROM tasks t ORDER BY t.id DESC LIMIT 1), zero)
    FROM (VALUES ('00000000-0000-0000-0000-000000000000'::uuid)) AS v (zero)
    ON CONFLICT DO NOTHING;
    RETURN QUERY
    SELECT coalesce((SELECT t.id FROM tasks t ORDER BY t.id LIMIT 1), d.last_id), d.looked_through, d.last_id
    FROM task_type_deletion d WHERE d.type = p_type;
END;
$$;

CREATE FUNCTION dtq_waiting(p_queue_set text, p_queue text, p_limit integer) RETURNS integer LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_sort = off AS $$
-- How many tasks wait in a queue, whether due, scheduled, retrying or blocked: at most p_limit. Uses the indexes
-- tasks_outbox and tasks_published.
    SELECT least(p_limit, count(*))::integer FROM (
        (SELECT 1 FROM tasks t
        WHERE t.needs_publish AND t.queue_set = p_queue_set AND t.queue = p_queue
        ORDER BY t.publish_at LIMIT p_limit)
        UNION ALL
        (SELECT 1 FROM tasks t
        WHERE NOT t.needs_publish AND t.queue_set = p_queue_set AND t.queue = p_queue
        ORDER BY t.publish_at LIMIT p_limit)
    ) AS waiting;
$$;

CREATE FUNCTION dtq_removed_queues(p_limit integer) RETURNS TABLE (queue_set text, queue text) LANGUAGE sql STABLE
SET enable_seqscan = off SET enable_sort = off AS $$
-- Queues that hold waiting tasks but that their (declared) set no longer declares. A loose scan of each of
-- the indexes tasks_outbox and tasks_published: one probe per queue that holds tasks.
    WITH RECURSIVE outbox AS (
        (SELECT t.queue_set, t.queue FROM tasks t WHERE t.needs_publish ORDER BY t.queue_set, t.queue LIMIT 1)
        UNION ALL
        SELECT n.queue_set, n.queue FROM outbox w CROSS JOIN LATERAL (
            SELECT t.queue_set, t.queue FROM tasks t
            WHERE t.needs_publish AND (t.queue_set, t.queue) > (w.queue_set, w.queue)
            ORDER BY t.queue_set, t.queue LIMIT 1
        ) AS n
    ), published AS (
        (SELECT t.queue_set, t.queue FROM tasks t WHERE NOT t.needs_publish ORDER BY t.queue_set, t.queue LIMIT 1)
        UNION ALL
        SELECT n.queue_set, n.queue FROM published w CROSS JOIN LATERAL (
            SELECT t.queue_set, t.queue FROM tasks t
            WHERE NOT t.needs_publish AND (t.queue_set, t.queue) > (w.queue_set, w.queue)
            ORDER BY t.queue_set, t.queue LIMIT 1
        ) AS n
    ), held AS (
        SELECT o.queue_set, o.queue FROM outbox o UNION SELECT p.queue_set, p.queue FROM published p
    )
    SELECT h.queue_set, h.queue FROM held h JOIN queue_set s ON s.name = h.queue_set
    WHERE NOT EXISTS (SELECT 1 FROM queue q WHERE q.queue_set = h.queue_set AND q.name = h.queue)
    LIMIT p_limit;
$$;

CREATE FUNCTION dtq_move(p_queue_set text, p_queue text, p_limit integer) RETURNS integer LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Move waiting tasks out of a queue that its set no longer declares: to the set's removal queue, else to the queue of
-- their type, else to the set's most urgent queue; a declared queue keeps its tasks. They are published again
-- when due: the broker's messages for the old queue reach no worker.
DECLARE
    strays uuid[];
    moved integer;
BEGIN
    IF EXISTS (SELECT 1 FROM queue q WHERE q.queue_set = p_queue_set AND q.name = p_queue) THEN
        RETURN 0;
    END IF;
    SELECT array_agg(w.id) INTO strays FROM (
        (SELECT t.id FROM tasks t
        WHERE t.needs_publish AND t.queue_set = p_queue_set AND t.queue = p_queue
        ORDER BY t.publish_at LIMIT p_limit)
        UNION ALL
        (SELECT t.id FROM tasks t
        WHERE NOT t.needs_publish AND t.queue_set = p_queue_set AND t.queue = p_queue
        ORDER BY t.publish_at LIMIT p_limit)
        LIMIT p_limit
    ) AS w;
    SELECT array_agg(h.id) INTO strays FROM (
        SELECT t.id FROM tasks t
        WHERE t.id = ANY (strays) AND t.queue = p_queue AND t.status = 'ENQUEUED' FOR UPDATE SKIP LOCKED
    ) AS h;
    UPDATE tasks t SET queue = p.queue, needs_publish = true, updated_at = now(),
        publish_at = CASE WHEN t.blocked_on IS NULL THEN greatest(t.run_at, now()) ELSE t.publish_at END
    FROM (
        SELECT y.type, (
            SELECT q.name FROM queue q
            WHERE q.queue_set = p_queue_set
            ORDER BY q.name IS NOT DISTINCT FROM s.removal_queue DESC,
                q.name = y.default_queue AND y.queue_set = p_queue_set DESC, q.position
            LIMIT 1
        ) AS queue
        FROM task_type y CROSS JOIN queue_set s WHERE s.name = p_queue_set
    ) AS p
    WHERE t.id = ANY (strays) AND p.type = t.type AND p.queue IS NOT NULL;
    GET DIAGNOSTICS moved = ROW_COUNT;
    RETURN moved;
END;
$$;
