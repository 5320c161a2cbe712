-- Claim a name, or update its claim to a newer generation. Caller: reconcile, if the plan allows it.
INSERT INTO resource_claim (kind, key, owner_uid, owner_namespace, owner_name, generation)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (kind, key) DO UPDATE
SET owner_uid = excluded.owner_uid, owner_namespace = excluded.owner_namespace, owner_name = excluded.owner_name,
    generation = excluded.generation
