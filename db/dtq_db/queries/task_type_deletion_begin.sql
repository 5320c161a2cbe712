-- Begin or continue the search for tasks of an inactive type; see dtq_begin_deletion. Caller: reconcile, on deletion.
SELECT first_id, looked_through, last_id FROM dtq_begin_deletion($1)
