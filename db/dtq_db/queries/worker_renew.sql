-- Renew a lease, report running tasks and memory, and return cancel requests; see dtq_renew. Caller: the worker's lease
-- thread.
SELECT renewed, cancel_ids FROM dtq_renew($1, $2, $3::text::jsonb, $4::text::jsonb)
