-- Cron entries that are due or new; locked. Caller: the scheduler.
SELECT s.type, s.name, s.cron, s.timezone, s.payload::text AS payload, s.next_fire_at, now() AS now,
    y.active, y.queue_set, y.default_queue, y.default_max_attempts
FROM schedule s JOIN task_type y ON y.type = s.type
WHERE s.next_fire_at IS NULL OR s.next_fire_at <= now()
ORDER BY s.next_fire_at NULLS FIRST LIMIT $1 FOR UPDATE OF s SKIP LOCKED
