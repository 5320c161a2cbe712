-- Whether any task refers to a type. Primary key walk, first hit; caller: reconcile, on deletion.
SELECT EXISTS (SELECT 1 FROM tasks WHERE type = $1) AS in_use
