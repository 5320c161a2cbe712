-- Every queue set's prefix. Caller: the operator.
SELECT name, namespace FROM queue_set
