-- The due work, in one cheap statement: the catalog's revision, whether the relay, the reaper or the scheduler has work,
-- and in how many seconds the next known work is due. $1: for how many seconds a dead letter is left to its publisher.
-- Indexes tasks_outbox, tasks_blocked, tasks_dead_letter, workers_unreaped, schedule_due. Caller: the maintenance loops.
WITH next AS MATERIALIZED (
    SELECT
        (SELECT min(first.publish_at) FROM queue q JOIN queue_set s ON s.name = q.queue_set AND NOT s.paused
        CROSS JOIN LATERAL (
            SELECT t.publish_at FROM tasks t
            WHERE t.needs_publish AND t.queue_set = q.queue_set AND t.queue = q.name
            ORDER BY t.publish_at LIMIT 1
        ) AS first) AS publish_at,
        (SELECT min(first.dead_letter_at) + make_interval(secs => $1) FROM queue_set s
        CROSS JOIN LATERAL (
            SELECT t.dead_letter_at FROM tasks t
            WHERE t.queue_set = s.name AND t.dead_letter_at IS NOT NULL
            ORDER BY t.dead_letter_at LIMIT 1
        ) AS first
        WHERE s.dead_letter) AS dead_letter_at,
        (SELECT lease_expires_at FROM workers WHERE reaped_at IS NULL ORDER BY lease_expires_at LIMIT 1) AS reap_at,
        (SELECT coalesce(next_fire_at, now()) FROM schedule ORDER BY next_fire_at NULLS FIRST LIMIT 1) AS fire_at
)
SELECT (SELECT revision FROM catalog_revision) AS revision,
    coalesce(publish_at <= now(), false) AS publish,
    EXISTS (SELECT 1 FROM tasks WHERE blocked_on IS NOT NULL) AS unblock,
    coalesce(dead_letter_at <= now(), false) AS dead_letter,
    coalesce(reap_at < now(), false) AS reap,
    coalesce(fire_at <= now(), false) AS fire,
    extract(epoch FROM least(publish_at, dead_letter_at, reap_at, fire_at) - now())::double precision AS next_seconds
FROM next
