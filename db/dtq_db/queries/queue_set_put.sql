-- Write a queue set. Caller: reconcile.
INSERT INTO queue_set (name, namespace, retry_delays_seconds, dead_letter, paused, deletion_policy, removal_queue)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (name) DO UPDATE
SET retry_delays_seconds = excluded.retry_delays_seconds, dead_letter = excluded.dead_letter,
    paused = excluded.paused, deletion_policy = excluded.deletion_policy,
    removal_queue = excluded.removal_queue, updated_at = now()
