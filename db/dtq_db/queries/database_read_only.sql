-- Whether this session is read-only: on a standby, or on a server set to read-only. Caller: the API's health.
SELECT current_setting('transaction_read_only')::boolean AS read_only
