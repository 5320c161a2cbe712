-- Whether this session may write nothing: a standby, or a server made read-only. Caller: the API's health.
SELECT current_setting('transaction_read_only')::boolean AS read_only
