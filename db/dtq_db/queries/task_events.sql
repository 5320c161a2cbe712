-- The history of one task, oldest first. Index task_events_task of each partition; caller: GET /tasks/{id}/events.
SELECT event, note, at, attempt, worker_id
FROM task_events WHERE task_id = $1 ORDER BY at, id LIMIT $2
