-- Send failed tasks again; see dtq_redrive. Caller: POST /dlq/redrive.
SELECT id, queue_set FROM dtq_redrive($1)
