-- Settings of this session, where a pooler did not take them at its start. Caller: whoever opens one.
SELECT set_config(s.name, s.value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)
