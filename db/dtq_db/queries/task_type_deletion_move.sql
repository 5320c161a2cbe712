-- Store the position of the walk. Caller: reconcile, on deletion.
UPDATE task_type_deletion SET looked_through = $2 WHERE type = $1
