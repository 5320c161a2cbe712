-- Win the right to run a batch; see dtq_claim. Caller: the worker's intake.
SELECT * FROM dtq_claim($1, $2, $3, $4)
