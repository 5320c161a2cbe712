-- Refuse new tasks of a type. Caller: reconcile, on deletion.
UPDATE task_type SET active = false, updated_at = now() WHERE type = $1 AND active
