-- Take back tasks that the broker refused; see dtq_undo. Caller: the enqueue lanes.
SELECT id FROM dtq_undo($1)
