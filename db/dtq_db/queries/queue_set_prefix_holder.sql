-- The other queue set with this prefix, if there is one. Caller: reconcile.
SELECT name FROM queue_set WHERE vhost = $1 AND namespace = $2 AND name <> $3
