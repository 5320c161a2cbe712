-- The history: task_events, range-partitioned by day, written by statement-level triggers only.
-- No foreign key: history outlives its task until retention drops a whole partition.

CREATE TABLE task_events (
    id bigint GENERATED ALWAYS AS IDENTITY,
    task_id uuid NOT NULL,
    event text NOT NULL CHECK (
        event IN ('ENQUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'RETRY', 'RELEASED', 'REDRIVE', 'DLQ')
    ),
    note text,
    at timestamptz NOT NULL DEFAULT now(),
    attempt integer,
    worker_id uuid
) PARTITION BY RANGE (at);
CREATE INDEX task_events_task ON task_events (task_id, at);

-- The default partition, for a day without a partition: a task must not be refused for the sake of its history.
CREATE TABLE task_events_default PARTITION OF task_events DEFAULT;

CREATE FUNCTION dtq_create_event_partition(day date) RETURNS boolean LANGUAGE plpgsql AS $$
-- Create the partition of one UTC day, and move that day's rows from the default partition into it.
DECLARE
    partition text := 'task_events_' || to_char(day, 'YYYYMMDD');
    first timestamptz := day::timestamp AT TIME ZONE 'UTC';
    next timestamptz := (day + 1)::timestamp AT TIME ZONE 'UTC';
BEGIN
    PERFORM pg_advisory_xact_lock(hashtext('dtq_create_event_partition'));
    IF to_regclass(partition) IS NOT NULL THEN
        RETURN false;
    END IF;
    -- Attaching locks the default partition anyway. Locking it before the move keeps out events in between, which
    -- would make every creation fail as long as tasks are moving.
    LOCK TABLE task_events_default IN ACCESS EXCLUSIVE MODE;
    EXECUTE format('CREATE TABLE %I (LIKE task_events INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', partition);
    EXECUTE format(
        'WITH moved AS (DELETE FROM task_events_default WHERE at >= %L AND at < %L RETURNING *)
         INSERT INTO %I SELECT * FROM moved', first, next, partition);
    EXECUTE format('ALTER TABLE task_events ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', partition, first, next);
    RETURN true;
END;
$$;

CREATE FUNCTION dtq_create_event_partitions(days_ahead integer) RETURNS integer LANGUAGE plpgsql AS $$
-- At most 31 days: a process that may call this must not be able to fill the catalog with partitions.
BEGIN
    IF days_ahead IS NULL OR days_ahead NOT BETWEEN 0 AND 31 THEN
        RAISE EXCEPTION 'days_ahead must be from 0 to 31 days, not %', days_ahead;
    END IF;
    RETURN (
        SELECT count(*) FILTER (WHERE dtq_create_event_partition(((now() AT TIME ZONE 'UTC')::date + ahead)))::integer
        FROM generate_series(0, days_ahead) AS ahead);
END;
$$;

CREATE FUNCTION dtq_drop_event_partitions(keep_days integer) RETURNS text[] LANGUAGE plpgsql AS $$
-- Drop every daily partition that ended more than keep_days ago; return their names. At least 1 day, the least that
-- EVENTS_RETENTION_DAYS allows: a process that may call this must not be able to remove the history of today.
DECLARE
    oldest text := 'task_events_' || to_char((now() AT TIME ZONE 'UTC')::date - keep_days, 'YYYYMMDD');
    partition text;
    dropped text[] := '{}';
BEGIN
    IF keep_days IS NULL OR keep_days < 1 THEN
        RAISE EXCEPTION 'keep_days must be at least 1 day, not %', keep_days;
    END IF;
    FOR partition IN
        SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'task_events'::regclass AND c.relname ~ '^task_events_\d{8}$' AND c.relname < oldest
        ORDER BY c.relname
    LOOP
        EXECUTE format('DROP TABLE %I', partition);
        dropped := dropped || partition;
    END LOOP;
    RETURN dropped;
END;
$$;

CREATE FUNCTION dtq_record_inserts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO task_events (task_id, event, attempt) SELECT id, status, attempts FROM added;
    RETURN NULL;
END;
$$;
CREATE TRIGGER tasks_inserted AFTER INSERT ON tasks
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION dtq_record_inserts();

CREATE FUNCTION dtq_record_updates() RETURNS trigger LANGUAGE plpgsql
-- Transition tables have no statistics; with a nested loop a batch would cost its square.
SET enable_nestloop = off SET enable_hashjoin = on SET enable_sort = on AS $$
-- A return from RUNNING is a RETRY, or RELEASED if the attempt was given back unused: its note is not the error of
-- an attempt before it.
BEGIN
    INSERT INTO task_events (task_id, event, note, attempt, worker_id)
    SELECT n.id,
        CASE
            WHEN n.status <> 'ENQUEUED' THEN n.status
            WHEN o.status = 'FAILED' THEN 'REDRIVE'
            WHEN n.attempts < o.attempts THEN 'RELEASED'
            ELSE 'RETRY'
        END,
        CASE WHEN n.status IN ('SUCCEEDED', 'RUNNING') OR n.attempts < o.attempts THEN NULL ELSE n.last_error END,
        n.attempts,
        n.worker_id
    FROM changed n JOIN former o ON o.id = n.id
    WHERE n.status <> o.status;
    RETURN NULL;
END;
$$;
CREATE TRIGGER tasks_updated AFTER UPDATE ON tasks
    REFERENCING OLD TABLE AS former NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION dtq_record_updates();

SELECT dtq_create_event_partitions(7);
