-- Up to $2 slots after $1 in which tasks wait, in order: a loose scan of the index tasks_blocked. Caller: the relay.
WITH RECURSIVE walk AS (
    (SELECT blocked_on FROM tasks WHERE blocked_on > $1 ORDER BY blocked_on LIMIT 1)
    UNION ALL
    SELECT (SELECT t.blocked_on FROM tasks t WHERE t.blocked_on > w.blocked_on ORDER BY t.blocked_on LIMIT 1)
    FROM walk w WHERE w.blocked_on IS NOT NULL
)
SELECT blocked_on AS slot FROM walk WHERE blocked_on IS NOT NULL LIMIT $2
