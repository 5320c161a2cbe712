-- Record which tasks the broker holds, delayed and in bulk; see dtq_confirm. Callers: API and worker.
SELECT dtq_confirm($1, $2)
