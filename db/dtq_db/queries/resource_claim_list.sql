-- Every claimed name of a kind. Callers: `dtq get`, the operator's sweep.
SELECT key, owner_uid, owner_namespace, owner_name, generation FROM resource_claim WHERE kind = $1 ORDER BY key
