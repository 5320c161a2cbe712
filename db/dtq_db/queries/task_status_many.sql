-- Which of these tasks are FAILED; the rest of the dead letter queue's copies are spent. Primary key.
SELECT id FROM tasks WHERE id = ANY ($1) AND status = 'FAILED' AND ($2::text[] IS NULL OR type = ANY ($2))
