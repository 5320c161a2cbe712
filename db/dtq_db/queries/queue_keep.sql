-- Delete the queues of a set that are no longer declared. Caller: reconcile.
DELETE FROM queue WHERE queue_set = $1 AND NOT (name = ANY ($2))
