-- Record which dead letters the broker holds; see dtq_dead_letter. Callers: worker and relay.
SELECT dtq_dead_letter($1, $2) AS noted
