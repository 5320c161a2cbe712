-- The bounds of a read-only search. Primary key, both ends; caller: reconcile, on a dry run of a deletion.
SELECT (SELECT id FROM tasks ORDER BY id LIMIT 1) AS first_id,
    '00000000-0000-0000-0000-000000000000'::uuid AS looked_through,
    (SELECT id FROM tasks ORDER BY id DESC LIMIT 1) AS last_id
WHERE EXISTS (SELECT 1 FROM tasks)
