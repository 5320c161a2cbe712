-- The payload of one task. Primary key; caller: GET /tasks/{id}/payload.
SELECT type, payload::text AS payload FROM tasks WHERE id = $1
