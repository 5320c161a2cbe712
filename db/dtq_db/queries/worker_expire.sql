-- End a worker's lease; see dtq_expire. Caller: the worker's lease.
SELECT dtq_expire($1)
