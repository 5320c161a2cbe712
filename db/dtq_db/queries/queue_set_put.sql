-- Write a queue set. Caller: reconcile.
INSERT INTO queue_set (name, namespace, retry_delays_seconds, dead_letter, paused, deletion_policy)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (name) DO UPDATE
SET retry_delays_seconds = excluded.retry_delays_seconds, dead_letter = excluded.dead_letter,
    paused = excluded.paused, deletion_policy = excluded.deletion_policy, updated_at = now()
