-- Give back claims that never started; see dtq_release. Caller: the worker's intake.
SELECT id FROM dtq_release($1, $2)
