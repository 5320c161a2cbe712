-- Drop the daily partitions older than $1 days. Caller: the pruner.
SELECT dtq_drop_event_partitions($1)
