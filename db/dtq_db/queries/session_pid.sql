-- The process id of this session on the server. Caller: `dtq_db.sessions`.
SELECT pg_backend_pid()
