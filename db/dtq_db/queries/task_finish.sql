-- Record the end of a batch of attempts; see dtq_finish. Callers: the worker and the reaper.
SELECT id, status, updated_at FROM dtq_finish($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)
