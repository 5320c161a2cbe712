-- Retention: finished tasks are deleted when their type's retention is over. Ids are version 7, so a range of ids is a
-- range of creation times. Each range (slice) is walked only when a task in it may have expired: the work is
-- proportional to the deleted rows, whatever the table holds, and needs no index.

CREATE TABLE prune_slice (
    first_id uuid PRIMARY KEY,
    opened_at timestamptz NOT NULL DEFAULT now(),
    look_at timestamptz NOT NULL,
    looked_through uuid,
    soonest timestamptz
);
COMMENT ON TABLE prune_slice IS 'A slice goes from first_id up to the next slice; together they cover every id.';
COMMENT ON COLUMN prune_slice.look_at IS 'When it is walked next.';
COMMENT ON COLUMN prune_slice.looked_through IS 'Where the walk under way stands; null between two walks.';
COMMENT ON COLUMN prune_slice.soonest IS 'The first expiry of what the walk under way has left.';
INSERT INTO prune_slice (first_id, look_at) VALUES ('00000000-0000-0000-0000-000000000000', now());

CREATE FUNCTION dtq_retention(p_type task_type, p_status text) RETURNS interval LANGUAGE sql IMMUTABLE
-- How long a task of that type and status is kept; for an unfinished task, the shortest time that it will be kept.
RETURN make_interval(secs => CASE
    WHEN p_status = 'FAILED' THEN p_type.retention_failed_seconds
    WHEN p_status IN ('SUCCEEDED', 'CANCELLED') THEN p_type.retention_succeeded_seconds
    ELSE least(p_type.retention_failed_seconds, p_type.retention_succeeded_seconds) END);

CREATE FUNCTION dtq_prune_sooner() RETURNS trigger LANGUAGE plpgsql AS $$
-- A retention became shorter, or a type with a short retention was added: no slice may wait longer than that.
DECLARE
    sooner timestamptz := now() + 1.1 * make_interval(
        secs => least(NEW.retention_failed_seconds, NEW.retention_succeeded_seconds));
BEGIN
    UPDATE prune_slice SET look_at = sooner WHERE look_at > sooner;
    RETURN NULL;
END;
$$;
CREATE TRIGGER task_type_retention AFTER INSERT OR UPDATE OF retention_failed_seconds, retention_succeeded_seconds
    ON task_type FOR EACH ROW EXECUTE FUNCTION dtq_prune_sooner();

CREATE FUNCTION dtq_first_id(p_at timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE
-- The smallest version 7 id for a time: its first 48 bits are milliseconds since 1970 (RFC 9562, 5.7).
RETURN rpad(lpad(to_hex(floor(extract(epoch FROM p_at) * 1000)::bigint), 12, '0'), 32, '0')::uuid;

CREATE FUNCTION dtq_prune(p_limit integer) RETURNS TABLE (dropped integer, more boolean) LANGUAGE plpgsql
SET enable_seqscan = off SET enable_nestloop = off SET enable_sort = on AS $$
-- Make one step of the walk over a due slice; open a new slice each hour. A slice is walked again after the first
-- expiry among its remaining tasks and a tenth of its age, so that a slice is walked a bounded number of times in its
-- life (its age grows by a tenth each time), and retention is exceeded by at most a tenth. An empty slice is joined to
-- the previous slice.
DECLARE
    slice prune_slice;
    beyond uuid;
    ids uuid[];
    expired uuid[];
    versions timestamptz[];
    next_expiry timestamptz;
BEGIN
    INSERT INTO prune_slice (first_id, look_at)
    SELECT dtq_first_id(now()), now() + 1.1 * (
        SELECT make_interval(secs => coalesce(min(least(y.retention_failed_seconds, y.retention_succeeded_seconds)), 0))
        FROM task_type y)
    WHERE (SELECT max(s.opened_at) FROM prune_slice s) < now() - interval '1 hour'
    ON CONFLICT DO NOTHING;

    SELECT * INTO slice FROM prune_slice s WHERE s.look_at <= now() ORDER BY s.look_at LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN QUERY SELECT 0, false;
        RETURN;
    END IF;
    beyond := (SELECT s.first_id FROM prune_slice s WHERE s.first_id > slice.first_id ORDER BY s.first_id LIMIT 1);

    WITH page AS (
        SELECT t.id, t.type, t.status, t.updated_at FROM tasks t
        WHERE t.id >= coalesce(slice.looked_through, slice.first_id)
            AND t.id < coalesce(beyond, 'ffffffff-ffff-ffff-ffff-ffffffffffff')
        ORDER BY t.id LIMIT p_limit
    ), aged AS (
        SELECT p.id, p.updated_at, p.status IN ('SUCCEEDED', 'CANCELLED', 'FAILED') AS finished,
            CASE WHEN p.status IN ('SUCCEEDED', 'CANCELLED', 'FAILED') THEN p.updated_at ELSE now() END
                + (SELECT dtq_retention(y, p.status) FROM task_type y WHERE y.type = p.type) AS expires_at
        FROM page p
    )
    SELECT array_agg(a.id ORDER BY a.id),
        coalesce(array_agg(a.id) FILTER (WHERE a.finished AND a.expires_at < now()), '{}'),
        array_agg(a.updated_at) FILTER (WHERE a.finished AND a.expires_at < now()),
        least(slice.soonest, min(a.expires_at) FILTER (WHERE NOT (a.finished AND a.expires_at < now())))
    INTO ids, expired, versions, next_expiry
    FROM aged a;

    DELETE FROM tasks t USING unnest(expired, versions) AS e (id, updated_at)
    WHERE t.id = e.id AND t.id = ANY (expired) AND t.updated_at = e.updated_at;
    GET DIAGNOSTICS dropped = ROW_COUNT;
    more := cardinality(ids) = p_limit;

    IF more THEN
        UPDATE prune_slice s SET looked_through = ids[p_limit], soonest = next_expiry WHERE s.first_id = slice.first_id;
    ELSIF next_expiry IS NULL AND beyond IS NOT NULL AND slice.first_id <> '00000000-0000-0000-0000-000000000000' THEN
        DELETE FROM prune_slice s WHERE s.first_id = slice.first_id;
    ELSE
        UPDATE prune_slice s SET looked_through = NULL, soonest = NULL, look_at = greatest(
            next_expiry + (next_expiry - slice.opened_at) / 10,
            now() + greatest((now() - slice.opened_at) / 10, interval '1 minute'))
        WHERE s.first_id = slice.first_id;
    END IF;
    RETURN NEXT;
END;
$$;
