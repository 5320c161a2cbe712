-- The queues of a set that task types refer to. Caller: reconcile.
SELECT DISTINCT default_queue FROM task_type WHERE queue_set = $1
