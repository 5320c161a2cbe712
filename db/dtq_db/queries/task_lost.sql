-- Mark tasks whose message the broker lost; see dtq_lost. Index tasks_waiting; callers: relay, topology repair.
SELECT dtq_lost($1, $2, $3, $4)
