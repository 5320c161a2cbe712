-- Move tasks out of a queue that is no longer declared; see dtq_move. Indexes tasks_outbox, tasks_published;
-- caller: the mover.
SELECT dtq_move($1, $2, $3)
