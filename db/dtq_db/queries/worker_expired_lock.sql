-- One worker whose lease expired and whose tasks were not all taken back; locked against late claims.
-- Caller: the reaper.
SELECT id FROM workers WHERE reaped_at IS NULL AND lease_expires_at < now()
ORDER BY lease_expires_at LIMIT 1 FOR UPDATE SKIP LOCKED
