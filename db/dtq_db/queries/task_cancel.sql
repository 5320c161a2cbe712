-- Cancel a waiting task or ask a running one to stop; see dtq_cancel. Caller: POST /tasks/{id}/cancel.
SELECT id, status, requested FROM dtq_cancel($1)
