-- How many tasks wait in a queue; see dtq_waiting. Indexes tasks_outbox, tasks_published; callers: reconcile, the operator.
SELECT dtq_waiting($1, $2, $3)
