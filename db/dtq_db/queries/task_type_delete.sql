-- Delete an inactive type that no task refers to, as the finished walk of task_type_deletion has found.
-- Caller: reconcile, on deletion.
DELETE FROM task_type y USING task_type_deletion d
WHERE y.type = $1 AND d.type = y.type AND NOT y.active AND d.looked_through >= d.last_id
