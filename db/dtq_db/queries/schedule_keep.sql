-- Delete the cron entries of a type that are no longer declared. Caller: reconcile.
DELETE FROM schedule WHERE type = $1 AND NOT (name = ANY ($2))
