-- Workers grouped by what they registered, and how long ago the last lease of each group expired; negative while a
-- lease is in force. Workers that ended are kept for a day. Caller: the operator.
SELECT namespace, queues, types, max(lease_expires_at) AS lease_expires_at,
    extract(epoch FROM now() - max(lease_expires_at))::double precision AS silent_seconds
FROM workers GROUP BY namespace, queues, types
