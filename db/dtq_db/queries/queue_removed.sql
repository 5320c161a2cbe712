-- Queues in which tasks wait although they are declared no longer; see dtq_removed_queues. Callers: the mover, the operator.
SELECT queue_set, queue FROM dtq_removed_queues($1)
