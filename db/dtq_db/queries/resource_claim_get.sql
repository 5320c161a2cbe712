-- Who owns a name, locked until the transaction's end. Caller: reconcile.
SELECT owner_uid, owner_namespace, owner_name, generation FROM resource_claim WHERE kind = $1 AND key = $2 FOR UPDATE
