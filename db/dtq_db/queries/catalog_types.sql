-- Every task type. Callers: the catalog caches.
SELECT type, active, queue_set, default_queue, default_max_attempts, max_payload_bytes,
    payload_schema::text AS payload_schema
FROM task_type
