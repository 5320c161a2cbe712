-- One worker whose lease expired and whose tasks were not all taken back; locked against late claims. With its last
-- memory report, and later reports by workers of the same control group. Index workers_memory_group.
-- Caller: the reaper.
SELECT w.id, w.memory::text AS memory, (
        SELECT max((s.memory ->> 'oom_kills')::bigint) FROM workers s WHERE s.memory_group = w.memory_group
    ) AS oom_kills_since
FROM workers w WHERE w.reaped_at IS NULL AND w.lease_expires_at < now()
ORDER BY w.lease_expires_at LIMIT 1 FOR UPDATE OF w SKIP LOCKED
