-- Pick and hold failed tasks whose copy is missing from the dead letter queue; see dtq_dead_letters_due. Index
-- tasks_dead_letter; caller: the relay.
SELECT id, type, queue_set, queue, updated_at FROM dtq_dead_letters_due($1, $2, $3)
