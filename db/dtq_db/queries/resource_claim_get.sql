-- The owner of a name. Caller: reconcile, which holds the name's lock if it is about to write.
SELECT owner_uid, owner_namespace, owner_name, generation FROM resource_claim WHERE kind = $1 AND key = $2
