-- Record that all tasks of this worker were taken back. Caller: the reaper.
WITH forgotten AS (DELETE FROM worker_claims WHERE worker_id = $1)
UPDATE workers SET reaped_at = now() WHERE id = $1
