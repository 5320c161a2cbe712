-- Drop a type that no task refers to. Caller: reconcile, on deletion.
DELETE FROM task_type WHERE type = $1
