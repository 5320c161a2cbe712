-- The owner of a name. Caller: reconcile, which holds the name's lock if it is about to write.
SELECT owner_uid AS uid, owner_namespace AS namespace, owner_name AS name, generation
FROM resource_claim WHERE kind = $1 AND key = $2
