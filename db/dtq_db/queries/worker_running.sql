-- What an expired worker still holds. Index tasks_worker; caller: the reaper.
SELECT t.id, t.type, t.attempts, t.max_attempts, t.crashes, t.queue_set, t.queue, y.backoff::text AS backoff
FROM tasks t JOIN task_type y ON y.type = t.type
WHERE t.worker_id = $1 AND t.status = 'RUNNING' ORDER BY t.id LIMIT $2
