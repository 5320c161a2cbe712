-- Limits of a task type: how many of its tasks run at once in the whole cluster (perhaps for each value of a payload
-- field), and how many start in a stretch of time. Both are enforced by the claim and by nothing else. A task over a
-- limit is blocked: it waits in Postgres, outside the broker, until dtq_unblock sees room.

ALTER TABLE task_type ADD COLUMN concurrency jsonb, ADD COLUMN rate_limit jsonb;
COMMENT ON COLUMN task_type.concurrency IS 'spec.concurrency as declared: {"limit": 3, "key": "customer.id"}.';
COMMENT ON COLUMN task_type.rate_limit IS 'spec.rateLimit as declared: {"tasks": 100, "perSeconds": 60, "burst": 10}.';

CREATE TABLE type_limit (
    type text PRIMARY KEY REFERENCES task_type (type) ON DELETE CASCADE,
    tokens double precision NOT NULL,
    refilled_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE type_limit IS 'One row for each limited type: its lock, and its token bucket as it was at refilled_at.';

CREATE FUNCTION dtq_keep_type_limit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.concurrency IS NULL AND NEW.rate_limit IS NULL THEN
        DELETE FROM type_limit WHERE type = NEW.type;
    ELSE
        INSERT INTO type_limit (type, tokens) VALUES (NEW.type, 'infinity') ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END;
$$;
CREATE TRIGGER task_type_limited AFTER INSERT OR UPDATE ON task_type
    FOR EACH ROW EXECUTE FUNCTION dtq_keep_type_limit();

-- Two columns that are null for every task of a type without limits, so that its updates stay in their page.
ALTER TABLE tasks ADD COLUMN slot text, ADD COLUMN blocked_on text;
ALTER TABLE tasks ADD CONSTRAINT slot_while_running CHECK (slot IS NULL OR status = 'RUNNING') NOT VALID;
ALTER TABLE tasks ADD CONSTRAINT blocked_while_enqueued CHECK (blocked_on IS NULL OR status = 'ENQUEUED') NOT VALID;
ALTER TABLE tasks VALIDATE CONSTRAINT slot_while_running;
ALTER TABLE tasks VALIDATE CONSTRAINT blocked_while_enqueued;
COMMENT ON COLUMN tasks.slot IS 'What it is counted under while it runs: its type, and a hash of its concurrency key.';
COMMENT ON COLUMN tasks.blocked_on IS 'The slot in which it waits for room; null for a task that no limit holds back.';
CREATE INDEX tasks_slot ON tasks (slot) WHERE slot IS NOT NULL;
CREATE INDEX tasks_blocked ON tasks (blocked_on, run_at, id) WHERE blocked_on IS NOT NULL;

CREATE FUNCTION dtq_slot(p_type text, p_concurrency jsonb, p_payload jsonb) RETURNS text LANGUAGE sql IMMUTABLE AS $$
-- What a task is counted under. Payloads without the key share one slot; values are hashed, whatever their length.
    SELECT p_type || coalesce(':' || md5(p_payload #>> string_to_array(p_concurrency ->> 'key', '.')),
        CASE WHEN p_concurrency ? 'key' THEN ':' ELSE '' END);
$$;

CREATE FUNCTION dtq_tokens(p_limit type_limit, p_rate jsonb) RETURNS double precision LANGUAGE sql STABLE AS $$
-- Starts that a rate limit allows now; infinity without one.
    SELECT CASE WHEN p_rate IS NULL THEN 'infinity' ELSE least(
        coalesce((p_rate ->> 'burst')::double precision, (p_rate ->> 'tasks')::double precision),
        p_limit.tokens + greatest(0, extract(epoch FROM clock_timestamp() - p_limit.refilled_at))
            * (p_rate ->> 'tasks')::double precision / (p_rate ->> 'perSeconds')::double precision) END;
$$;

CREATE FUNCTION dtq_admit(p_ids uuid[], p_types text[], p_early_seconds double precision)
RETURNS TABLE (id uuid, slot text, admitted boolean) LANGUAGE plpgsql AS $$
-- Decide which tasks of limited types may start, oldest first, and take their tokens. The caller claims those that
-- are admitted and blocks the others, in the same transaction: the row of type_limit stays locked until its end, and
-- each statement here sees what the holder before committed.
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM tasks t WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' ORDER BY t.id FOR UPDATE;
    PERFORM 1 FROM type_limit l
    WHERE l.type IN (SELECT t.type FROM tasks t WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED')
    ORDER BY l.type FOR UPDATE;
    RETURN QUERY
    WITH candidate AS (
        SELECT t.id, t.type, t.run_at, dtq_slot(t.type, y.concurrency, t.payload) AS slot,
            (y.concurrency ->> 'limit')::integer AS places, dtq_tokens(l, y.rate_limit) AS tokens, y.rate_limit
        FROM tasks t
        JOIN task_type y ON y.type = t.type
        JOIN type_limit l ON l.type = t.type
        LEFT JOIN queue_set s ON s.name = t.queue_set
        WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' AND t.type = ANY (p_types)
            AND s.paused IS NOT TRUE AND t.run_at <= now() + make_interval(secs => p_early_seconds)
    ), placed AS (
        SELECT c.*, c.places IS NULL OR row_number() OVER (PARTITION BY c.slot ORDER BY c.run_at, c.id)
            <= c.places - (SELECT count(*) FROM tasks r WHERE r.slot = c.slot) AS has_place
        FROM candidate c
    ), decided AS (
        SELECT p.*, p.has_place AND row_number() OVER (PARTITION BY p.type, p.has_place ORDER BY p.run_at, p.id)
            <= p.tokens AS admitted
        FROM placed p
    ), taken AS (
        UPDATE type_limit l SET tokens = d.tokens - d.started, refilled_at = clock_timestamp()
        FROM (
            SELECT type, tokens, count(*) FILTER (WHERE admitted) AS started
            FROM decided WHERE rate_limit IS NOT NULL GROUP BY type, tokens
        ) AS d
        WHERE l.type = d.type
    )
    SELECT d.id, d.slot, d.admitted FROM decided d;
END;
$$;

DROP FUNCTION dtq_claim(uuid, uuid[], text[], double precision);
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

CREATE FUNCTION dtq_unblock(p_slots text[], p_limit integer, p_hold_seconds double precision)
RETURNS TABLE (id uuid, type text, queue_set text, queue text, updated_at timestamptz) LANGUAGE sql AS $$
-- Pick tasks that wait in these slots and for which there is room now, oldest first, and hold them for their
-- publisher as dtq_relay does. Only a hint: whether they start is decided by the claim.
    WITH roomy AS (
        SELECT s.slot, coalesce((y.concurrency ->> 'limit')::integer - (
                SELECT count(*) FROM tasks r WHERE r.slot = s.slot), p_limit) AS places,
            -- A type whose limits were taken away holds nothing back.
            CASE WHEN l.type IS NULL THEN 'infinity' ELSE dtq_tokens(l, y.rate_limit) END AS tokens
        FROM unnest(p_slots) AS s (slot)
        CROSS JOIN LATERAL (SELECT t.type FROM tasks t WHERE t.blocked_on = s.slot LIMIT 1) AS one
        JOIN task_type y ON y.type = one.type
        LEFT JOIN type_limit l ON l.type = one.type
    ), picked AS (
        SELECT w.id, w.type, w.run_at, r.tokens FROM roomy r
        CROSS JOIN LATERAL (
            SELECT t.id, t.type, t.run_at FROM tasks t
            WHERE t.blocked_on = r.slot
            ORDER BY t.run_at, t.id LIMIT floor(greatest(0, least(r.places, r.tokens, p_limit)))::bigint
            FOR UPDATE SKIP LOCKED
        ) AS w
    ), fitting AS (
        SELECT p.id FROM (
            SELECT id, tokens, row_number() OVER (PARTITION BY type ORDER BY run_at, id) AS place FROM picked
        ) AS p WHERE p.place <= p.tokens LIMIT p_limit
    )
    UPDATE tasks t SET blocked_on = NULL, publish_at = now() + make_interval(secs => p_hold_seconds)
    FROM fitting f WHERE t.id = f.id AND t.blocked_on IS NOT NULL
    RETURNING t.id, t.type, t.queue_set, t.queue, t.updated_at;
$$;

-- The three ways out of a slot or out of the wait for one, as before but for that.

CREATE OR REPLACE FUNCTION dtq_finish(
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

CREATE OR REPLACE FUNCTION dtq_release(p_worker_id uuid, p_ids uuid[]) RETURNS TABLE (id uuid) LANGUAGE sql AS $$
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

CREATE OR REPLACE FUNCTION dtq_cancel(p_id uuid) RETURNS TABLE (id uuid, status text, requested boolean) LANGUAGE plpgsql AS $$
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
