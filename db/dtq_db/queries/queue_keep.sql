-- Drop the queues of a set that are not declared any more. Caller: reconcile.
DELETE FROM queue WHERE queue_set = $1 AND NOT (name = ANY ($2))
