-- Every claimed name. Caller: the operator's sweep.
SELECT kind, key, owner_uid, owner_namespace, owner_name, generation FROM resource_claim ORDER BY kind, key
