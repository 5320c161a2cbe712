-- Queues in which tasks wait although they are declared no longer; see dtq_removed_queues. Caller: the mover.
SELECT queue_set, queue FROM dtq_removed_queues($1)
