-- Release a name. Caller: reconcile.
DELETE FROM resource_claim WHERE kind = $1 AND key = $2 AND owner_uid = $3
