-- Set this session's settings, for a pooler that did not take them at session start. Caller: `dtq_db.sessions`.
SELECT set_config(s.name, s.value, false) FROM unnest($1::text[], $2::text[]) AS s (name, value)
