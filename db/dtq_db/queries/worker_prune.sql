-- Delete workers that ended more than a day ago. Caller: the pruner.
DELETE FROM workers WHERE reaped_at < now() - interval '1 day'
