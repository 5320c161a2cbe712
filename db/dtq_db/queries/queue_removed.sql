-- Queues that hold waiting tasks but are no longer declared; see dtq_removed_queues. Callers: the mover, the operator.
SELECT queue_set, queue FROM dtq_removed_queues($1)
