-- Whether any of the next $4 tasks after $2, up to $3, is of type $1; and the position of the walk. Primary key.
-- Caller: reconcile, on deletion.
WITH page AS (SELECT id, type FROM tasks WHERE id > $2::uuid AND id <= $3::uuid ORDER BY id LIMIT $4)
SELECT EXISTS (SELECT 1 FROM page WHERE type = $1) AS in_use, (SELECT count(*) FROM page)::integer AS looked_at,
    (SELECT id FROM page ORDER BY id DESC LIMIT 1) AS last_id
