-- The other queue set with this prefix, if there is one. Caller: reconcile.
SELECT name FROM queue_set WHERE namespace = $1 AND name <> $2
