-- Drop the cron entries of a type that are not declared any more. Caller: reconcile.
DELETE FROM schedule WHERE type = $1 AND NOT (name = ANY ($2))
