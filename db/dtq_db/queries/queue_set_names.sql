-- Every queue set's name. Caller: `dtq get`.
SELECT name FROM queue_set ORDER BY name
