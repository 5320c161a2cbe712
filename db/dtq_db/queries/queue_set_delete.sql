-- Delete a queue set and its queues. Caller: reconcile, on deletion.
DELETE FROM queue_set WHERE name = $1
