-- Task types with their schedules, as reconcile compares them: those named in $1, or all if it is null.
SELECT y.type, y.active, y.default_queue, y.default_max_attempts, y.payload_schema::text AS payload_schema, y.queue_set,
    y.timeout_seconds, y.backoff::text AS backoff, y.max_payload_bytes, y.retention_succeeded_seconds,
    y.retention_failed_seconds, y.deletion_policy, y.concurrency::text AS concurrency, y.rate_limit::text AS rate_limit,
    (SELECT coalesce(json_agg(json_build_object('name', s.name, 'cron', s.cron, 'timezone', s.timezone,
        'payload', s.payload) ORDER BY s.name), '[]')::text FROM schedule s WHERE s.type = y.type) AS schedules
FROM task_type y WHERE $1::text[] IS NULL OR y.type = ANY ($1)
