-- Running handlers and slots, by queue set and queue, of the workers whose lease is in force. Caller: scaling.
SELECT r.key, sum(r.value::integer)::integer AS running, max(w.concurrency)::integer AS concurrency
FROM workers w, jsonb_each_text(w.running) r
WHERE w.lease_expires_at > now() AND w.reaped_at IS NULL
GROUP BY r.key
