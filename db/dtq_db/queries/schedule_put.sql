-- Write a cron entry; a changed expression is planned again. Caller: reconcile.
INSERT INTO schedule AS s (type, name, cron, timezone, payload) VALUES ($1, $2, $3, $4, $5::text::jsonb)
ON CONFLICT (type, name) DO UPDATE
SET cron = excluded.cron, timezone = excluded.timezone, payload = excluded.payload,
    next_fire_at = CASE WHEN s.cron = excluded.cron AND s.timezone = excluded.timezone THEN s.next_fire_at END
