-- Every task type's name. Caller: `dtq get`.
SELECT type FROM task_type ORDER BY type
