-- Workers that registered alike, and how long ago the last of their leases ended; negative while one holds.
-- Workers that ended are remembered for a day. Caller: the operator.
SELECT namespace, queues, types, max(lease_expires_at) AS lease_expires_at,
    extract(epoch FROM now() - max(lease_expires_at))::double precision AS silent_seconds
FROM workers GROUP BY namespace, queues, types
