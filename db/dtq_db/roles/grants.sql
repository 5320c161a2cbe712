-- What each role may do: exactly this, whatever was granted before. Nothing is granted on the partitions of task_events:
-- they are read through it.
DO $$
DECLARE
    ours record;
BEGIN
    FOR ours IN
        SELECT p.oid::regprocedure AS signature FROM pg_proc p
        WHERE p.pronamespace = {schema_text}::regnamespace AND p.proname LIKE 'dtq\_%'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC, dtq_api, dtq_worker, dtq_operator, dtq_readonly',
            ours.signature);
    END LOOP;
END;
$$;
REVOKE ALL ON {tables}
    FROM PUBLIC, dtq_api, dtq_worker, dtq_operator, dtq_readonly;

-- Every process checks that the schema is as its release needs it, and follows the catalog.
GRANT SELECT ON dtq_migration, catalog_revision, queue_set, queue TO dtq_api, dtq_worker, dtq_operator;

-- The API and the maintenance roles. Tasks are written by functions, except for the outbox of dead letters.
GRANT SELECT ON task_type, schedule, tasks, task_events, workers TO dtq_api;
GRANT UPDATE (dead_letter_at, dead_lettered_at) ON tasks TO dtq_api;
GRANT UPDATE (next_fire_at) ON schedule TO dtq_api;
GRANT UPDATE (reaped_at), DELETE ON workers TO dtq_api;
GRANT SELECT (worker_id), DELETE ON worker_claims TO dtq_api;
GRANT EXECUTE ON FUNCTION dtq_enqueue, dtq_replay, dtq_undo, dtq_confirm, dtq_relay, dtq_lost, dtq_unblock, dtq_finish,
    dtq_held, dtq_cancel, dtq_redrive, dtq_dead_letters_due, dtq_dead_letter, dtq_removed_queues, dtq_move, dtq_prune,
    dtq_create_event_partitions, dtq_drop_event_partitions TO dtq_api;

-- A worker reads no task but those that it claims.
GRANT SELECT (type, backoff, concurrency, rate_limit) ON task_type TO dtq_worker;
GRANT EXECUTE ON FUNCTION dtq_register, dtq_renew, dtq_expire, dtq_claim, dtq_run_alone, dtq_finish, dtq_release,
    dtq_confirm, dtq_dead_letter, dtq_unblock TO dtq_worker;

-- The operator and `dtq apply` write declarations. They read neither payloads nor results.
GRANT SELECT, INSERT, UPDATE, DELETE ON task_type, schedule, queue_set, queue, resource_claim TO dtq_operator;
GRANT SELECT, UPDATE, DELETE ON task_type_deletion TO dtq_operator;
GRANT SELECT (id, type, queue_set, queue, run_at, needs_publish, publish_at, blocked_on, failed_at, dead_lettered_at),
    UPDATE (dead_letter_at, dead_lettered_at) ON tasks TO dtq_operator;
GRANT SELECT (namespace, queues, types, concurrency, running, lease_expires_at, reaped_at) ON workers TO dtq_operator;
GRANT EXECUTE ON FUNCTION dtq_begin_deletion, dtq_waiting, dtq_removed_queues TO dtq_operator;

-- People and dashboards read everything, payloads and results included.
GRANT SELECT ON {tables}
    TO dtq_readonly;
