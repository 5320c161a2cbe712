-- Record that a suspect starts and its worker runs nothing else; see dtq_run_alone. Caller: the worker's intake.
SELECT dtq_run_alone($1, $2, $3)
