-- Limits of a task type: how many of its tasks run at once in the whole cluster (optionally per value of a payload
-- field), and how many start per period. Only the claim enforces them. A task over a limit is blocked: it waits in
-- Postgres, outside the broker, until dtq_unblock sees room.

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

CREATE FUNCTION dtq_slot(p_type text, p_concurrency jsonb, p_payload jsonb) RETURNS text LANGUAGE sql IMMUTABLE
-- The slot under which a task is counted. Payloads without the key share one slot; values of any length are hashed.
RETURN p_type || coalesce(':' || md5(p_payload #>> string_to_array(p_concurrency ->> 'key', '.')),
    CASE WHEN p_concurrency ? 'key' THEN ':' ELSE '' END);

CREATE FUNCTION dtq_number(p_limit jsonb, p_key text) RETURNS double precision LANGUAGE sql IMMUTABLE
-- The number of a declared limit; null for any other value, which only the functions of a newer release can read.
RETURN CASE WHEN jsonb_typeof(p_limit -> p_key) = 'number' THEN (p_limit ->> p_key)::double precision END;

CREATE FUNCTION dtq_tokens(p_limit type_limit, p_rate jsonb) RETURNS double precision LANGUAGE sql STABLE AS $$
-- Starts that a rate limit allows now; infinity without a rate limit.
    SELECT coalesce(least(
        coalesce(dtq_number(p_rate, 'burst'), dtq_number(p_rate, 'tasks')),
        p_limit.tokens + greatest(0, extract(epoch FROM clock_timestamp() - p_limit.refilled_at))
            * dtq_number(p_rate, 'tasks') / dtq_number(p_rate, 'perSeconds')), 'infinity');
$$;

CREATE FUNCTION dtq_admit(p_ids uuid[], p_types text[], p_early_seconds double precision)
RETURNS TABLE (id uuid, slot text, admitted boolean) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Decide which tasks of limited types may start, oldest first, and take their tokens. The caller claims those that
-- are admitted and blocks the others, in the same transaction: the row of type_limit stays locked until its end, and
-- each statement here sees what the holder before committed.
#variable_conflict use_column
BEGIN
    PERFORM 1 FROM tasks t WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' ORDER BY t.id FOR UPDATE;
    PERFORM 1 FROM type_limit l
    WHERE l.type = ANY (ARRAY(SELECT DISTINCT t.type FROM tasks t WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED'))
    ORDER BY l.type FOR UPDATE;
    RETURN QUERY
    WITH candidate AS (
        SELECT t.id, t.type, t.run_at, dtq_slot(t.type, y.concurrency, t.payload) AS slot,
            dtq_number(y.concurrency, 'limit') AS places, l.tokens, y.rate_limit
        FROM tasks t
        CROSS JOIN LATERAL (SELECT * FROM task_type y WHERE y.type = t.type LIMIT 1) AS y
        CROSS JOIN LATERAL (
            SELECT dtq_tokens(l, y.rate_limit) AS tokens FROM type_limit l WHERE l.type = t.type LIMIT 1
        ) AS l
        LEFT JOIN LATERAL (SELECT * FROM queue_set s WHERE s.name = t.queue_set LIMIT 1) AS s ON true
        WHERE t.id = ANY (p_ids) AND t.status = 'ENQUEUED' AND t.type = ANY (p_types)
            AND s.paused IS NOT TRUE AND t.run_at <= now() + make_interval(secs => p_early_seconds)
    ), occupied AS (
        SELECT c.slot, (SELECT count(*) FROM tasks r WHERE r.slot = c.slot) AS running
        FROM candidate c WHERE c.places IS NOT NULL GROUP BY c.slot
    ), placed AS (
        SELECT c.*, c.places IS NULL OR row_number() OVER (PARTITION BY c.slot ORDER BY c.run_at, c.id)
            <= c.places - o.running AS has_place
        FROM candidate c LEFT JOIN occupied o ON o.slot = c.slot
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

CREATE FUNCTION dtq_unblock(p_slots text[], p_limit integer, p_hold_seconds double precision)
RETURNS TABLE (id uuid, type text, queue_set text, queue text, updated_at timestamptz) LANGUAGE plpgsql
SET enable_seqscan = off AS $$
-- Pick tasks that wait in these slots and for which there is room now, oldest first, and hold them for their
-- publisher as dtq_relay does; each slot has its share of p_limit. Only a hint: the claim decides whether they start.
#variable_conflict use_column
DECLARE
    share integer := greatest(1, p_limit / greatest(1, cardinality(p_slots)));
    fitting uuid[];
BEGIN
    WITH roomy AS (
        SELECT s.slot, coalesce(dtq_number(y.concurrency, 'limit') - (
                SELECT count(*) FROM tasks r WHERE r.slot = s.slot), p_limit) AS places,
            -- A type whose limits were removed blocks no task.
            coalesce((SELECT dtq_tokens(l, y.rate_limit) FROM type_limit l WHERE l.type = y.type), 'infinity') AS tokens
        FROM unnest(p_slots) AS s (slot)
        CROSS JOIN LATERAL (SELECT t.type FROM tasks t WHERE t.blocked_on = s.slot LIMIT 1) AS waiting
        CROSS JOIN LATERAL (SELECT * FROM task_type y WHERE y.type = waiting.type LIMIT 1) AS y
    ), picked AS (
        SELECT w.id, w.type, w.run_at, r.tokens FROM roomy r
        CROSS JOIN LATERAL (
            SELECT t.id, t.type, t.run_at FROM tasks t
            WHERE t.blocked_on = r.slot
            ORDER BY t.run_at, t.id
            LIMIT floor(greatest(0, least(r.places, r.tokens, share)))::bigint
            FOR UPDATE SKIP LOCKED
        ) AS w
    )
    SELECT array_agg(f.id) INTO fitting FROM (
        SELECT p.id FROM (
            SELECT id, tokens, row_number() OVER (PARTITION BY type ORDER BY run_at, id) AS place FROM picked
        ) AS p WHERE p.place <= p.tokens LIMIT p_limit
    ) AS f;
    RETURN QUERY
    UPDATE tasks t SET blocked_on = NULL, publish_at = now() + make_interval(secs => p_hold_seconds)
    WHERE t.id = ANY (fitting)
    RETURNING t.id, t.type, t.queue_set, t.queue, t.updated_at;
END;
$$;
