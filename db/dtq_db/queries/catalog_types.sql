-- Up to $2 task types that changed after revision $1, in order of change. Callers: the catalog caches.
SELECT type, revision, active, queue_set, default_queue AS queue, default_max_attempts AS max_attempts,
    max_payload_bytes, payload_schema::text AS payload_schema
FROM task_type WHERE revision > $1 ORDER BY revision LIMIT $2
