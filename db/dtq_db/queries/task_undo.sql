-- Take back tasks that the broker refused; see dtq_undo. Caller: the group commit.
SELECT id FROM dtq_undo($1)
