-- Pick blocked tasks for which there is room; see dtq_unblock. Index tasks_blocked; callers: the worker, the relay.
SELECT id, type, queue_set, queue, updated_at FROM dtq_unblock($1, $2, $3)
