-- The due work, in one cheap statement: the catalog's revision, and whether the relay, the reaper or the scheduler has
-- work. $1: for how many seconds a dead letter is left to its publisher. Indexes tasks_outbox,
-- tasks_blocked, tasks_dead_letter, workers_unreaped, schedule_due. Caller: the maintenance loops.
SELECT (SELECT revision FROM catalog_revision) AS revision,
    EXISTS (
        SELECT 1 FROM queue q JOIN queue_set s ON s.name = q.queue_set AND NOT s.paused
        CROSS JOIN LATERAL (
            SELECT 1 FROM tasks t
            WHERE t.needs_publish AND t.queue_set = q.queue_set AND t.queue = q.name AND t.publish_at <= now() LIMIT 1
        ) AS due
    ) AS publish,
    EXISTS (SELECT 1 FROM tasks WHERE blocked_on IS NOT NULL) AS unblock,
    EXISTS (
        SELECT 1 FROM queue_set s
        CROSS JOIN LATERAL (
            SELECT 1 FROM tasks t
            WHERE t.queue_set = s.name AND t.dead_letter_at <= now() - make_interval(secs => $1) LIMIT 1
        ) AS due
        WHERE s.dead_letter
    ) AS dead_letter,
    EXISTS (SELECT 1 FROM workers WHERE reaped_at IS NULL AND lease_expires_at < now()) AS reap,
    EXISTS (SELECT 1 FROM schedule WHERE next_fire_at IS NULL OR next_fire_at <= now()) AS fire
