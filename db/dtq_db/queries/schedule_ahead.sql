-- Up to $3 cron entries after ($1, $2) that are planned for later. Primary key; caller: the scheduler, which plans them
-- again.
SELECT s.type, s.name, s.cron, s.timezone, s.payload::text AS payload, s.next_fire_at, now() AS now,
    y.active, y.queue_set, y.default_queue, y.default_max_attempts
FROM schedule s JOIN task_type y ON y.type = s.type
WHERE (s.type, s.name) > ($1, $2) AND s.next_fire_at > now()
ORDER BY s.type, s.name LIMIT $3
