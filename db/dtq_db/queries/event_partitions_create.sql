-- Create the daily partitions up to $1 days ahead. Caller: the pruner.
SELECT dtq_create_event_partitions($1)
