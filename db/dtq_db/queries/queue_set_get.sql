-- A queue set's row with its queues, as reconcile compares it.
SELECT s.name, s.namespace, s.retry_delays_seconds, s.dead_letter, s.paused, s.deletion_policy, s.removal_queue,
    (SELECT coalesce(json_agg(json_build_object('name', q.name, 'type', q.type,
        'max_length', q.max_length, 'scaling', q.scaling) ORDER BY q.position), '[]')::text
        FROM queue q WHERE q.queue_set = s.name) AS queues
FROM queue_set s WHERE s.name = $1
