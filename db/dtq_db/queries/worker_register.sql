-- Register a worker; see dtq_register. Caller: the worker's lease.
SELECT dtq_register($1, $2, $3, $4, $5, $6, $7, $8::text::jsonb)
