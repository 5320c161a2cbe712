-- Write one queue of a set. Caller: reconcile.
INSERT INTO queue (queue_set, name, position, type, max_length, scaling)
VALUES ($1, $2, $3, $4, $5, $6::text::jsonb)
ON CONFLICT (queue_set, name) DO UPDATE
SET position = excluded.position, scaling = excluded.scaling
