-- Store a batch of tasks; see dtq_enqueue. Caller: the group commit and the scheduler.
SELECT id, updated_at FROM dtq_enqueue($1, $2, $3, $4, $5, $6, $7, $8, $9)
