-- Note, lazily and in bulk, what the broker holds; see dtq_confirm. Callers: API and worker.
SELECT dtq_confirm($1, $2)
