-- Nothing of this worker runs any more. Caller: the reaper.
UPDATE workers SET reaped_at = now() WHERE id = $1
