-- Every queue set with its queues, most urgent first. Callers: the catalog caches, the operator.
SELECT s.name, s.namespace, s.retry_delays_seconds, s.dead_letter, s.paused, s.deletion_policy, s.removal_queue,
    coalesce(json_agg(json_build_object('name', q.name, 'type', q.type,
        'max_length', q.max_length, 'scaling', q.scaling) ORDER BY q.position)
        FILTER (WHERE q.name IS NOT NULL), '[]')::text AS queues
FROM queue_set s LEFT JOIN queue q ON q.queue_set = s.name
GROUP BY s.name
