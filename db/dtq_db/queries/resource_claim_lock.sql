-- Lock a name, even an unclaimed one. Caller: reconcile, before it reads the claim.
SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))
