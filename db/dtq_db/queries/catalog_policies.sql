-- How tasks of these types are retried and limited. Caller: a worker, for the types that it has handlers for.
SELECT type, backoff::text AS backoff, concurrency::text AS concurrency, rate_limit::text AS rate_limit
FROM task_type WHERE type = ANY ($1)
