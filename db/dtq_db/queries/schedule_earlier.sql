-- Plan a cron entry for $3 if it was planned for later: the database's clock was wrong then. Caller: the scheduler.
UPDATE schedule SET next_fire_at = $3 WHERE type = $1 AND name = $2 AND next_fire_at > $3
RETURNING type, name
