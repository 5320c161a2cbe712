-- Failed tasks whose copy is missing from the dead letter queue for longer than $1 seconds.
-- Index tasks_dead_letter_due; caller: the relay.
SELECT t.id, t.type, t.queue_set, t.queue, t.updated_at
FROM tasks t JOIN queue_set s ON s.name = t.queue_set AND s.dead_letter
WHERE t.failed_at IS NOT NULL AND t.dead_lettered_at IS NULL AND t.failed_at < now() - make_interval(secs => $1)
ORDER BY t.failed_at LIMIT $2
FOR UPDATE OF t SKIP LOCKED
