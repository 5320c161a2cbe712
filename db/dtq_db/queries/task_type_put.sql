-- Write a task type, which ends a pending deletion. Caller: reconcile.
WITH kept AS (DELETE FROM task_type_deletion WHERE type = $1)
INSERT INTO task_type (type, active, default_queue, default_max_attempts, payload_schema, queue_set, timeout_seconds,
    backoff, max_payload_bytes, retention_succeeded_seconds, retention_failed_seconds, deletion_policy,
    concurrency, rate_limit)
VALUES ($1, $2, $3, $4, $5::text::jsonb, $6, $7, $8::text::jsonb, $9, $10, $11, $12, $13::text::jsonb,
    $14::text::jsonb)
ON CONFLICT (type) DO UPDATE
SET active = excluded.active, default_queue = excluded.default_queue,
    default_max_attempts = excluded.default_max_attempts, payload_schema = excluded.payload_schema,
    queue_set = excluded.queue_set, timeout_seconds = excluded.timeout_seconds, backoff = excluded.backoff,
    max_payload_bytes = excluded.max_payload_bytes,
    retention_succeeded_seconds = excluded.retention_succeeded_seconds,
    retention_failed_seconds = excluded.retention_failed_seconds, deletion_policy = excluded.deletion_policy,
    concurrency = excluded.concurrency, rate_limit = excluded.rate_limit,
    updated_at = now()
