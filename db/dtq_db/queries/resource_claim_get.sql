-- Who owns a name. Caller: reconcile; where it is about to write, it holds the name's lock.
SELECT owner_uid, owner_namespace, owner_name, generation FROM resource_claim WHERE kind = $1 AND key = $2
