-- Pick and hold tasks that are due to be published; see dtq_relay. Index tasks_outbox; caller: the relay.
SELECT id, type, queue_set, queue, updated_at FROM dtq_relay($1, $2, $3)
