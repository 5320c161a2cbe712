-- Answer an idempotent hit; see dtq_replay. Unique index tasks_idempotency_key; caller: the group commit.
SELECT id, status, queue, same FROM dtq_replay($1, $2, $3)
