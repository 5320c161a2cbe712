-- The tasks that an expired worker still holds; see dtq_held. Its claims and the primary key; caller: the reaper.
SELECT t.id, t.attempts AS attempt, t.max_attempts, t.crashes,
    (SELECT y.backoff::text FROM task_type y WHERE y.type = t.type) AS backoff,
    coalesce(t.uncounted_attempts, 0) AS uncounted, t.alone_at IS NOT NULL AS alone,
    extract(epoch FROM now() - t.suspected_at)::double precision AS suspected_seconds
FROM tasks t
WHERE t.id = ANY (ARRAY(SELECT h FROM dtq_held(ARRAY[$1::uuid]) h ORDER BY h LIMIT $2)) ORDER BY t.id
