-- Set when a cron entry is due next. Caller: the scheduler.
UPDATE schedule SET next_fire_at = $3 WHERE type = $1 AND name = $2
