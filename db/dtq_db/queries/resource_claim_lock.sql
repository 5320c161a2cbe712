-- Take turns about a name, even one that nobody claims yet. Caller: reconcile, before it reads the claim.
SELECT pg_advisory_xact_lock(hashtext($1), hashtext($2))
