-- The process of this session, as the server knows it. Caller: whoever opens one.
SELECT pg_backend_pid()
