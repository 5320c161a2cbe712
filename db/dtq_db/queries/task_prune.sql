-- Make one step of the walk that deletes finished tasks after their retention; see dtq_prune. Caller: the pruner.
SELECT dropped, more FROM dtq_prune($1)
