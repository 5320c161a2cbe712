-- Every claimed name. Caller: the operator's sweep.
SELECT kind, key, owner_uid AS uid, owner_namespace AS namespace, owner_name AS name, generation
FROM resource_claim ORDER BY kind, key
