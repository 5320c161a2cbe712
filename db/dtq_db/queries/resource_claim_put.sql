-- Take a name, or move on to a newer generation. Caller: reconcile, after the plan has said that we may.
INSERT INTO resource_claim (kind, key, owner_uid, owner_namespace, owner_name, generation)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (kind, key) DO UPDATE
SET owner_uid = excluded.owner_uid, owner_namespace = excluded.owner_namespace, owner_name = excluded.owner_name,
    generation = excluded.generation
