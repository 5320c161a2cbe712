-- One task with all its details. Primary key; caller: GET /tasks/{id}.
SELECT id, type, queue_set, queue, status, attempts, max_attempts, last_error, last_traceback, result::text AS result,
    run_at, crashes, redrives, coalesce(snoozes, 0) AS snoozes, cancel_requested_at, dead_lettered_at, created_at, updated_at
FROM tasks WHERE id = $1
