-- A worker ends; see dtq_expire. Caller: the worker's lease.
SELECT dtq_expire($1)
