-- The roles of dtq, and the owner of its schema. None can log in: grant one to the login user of each process.
DO $$
DECLARE
    role text;
    ours record;
BEGIN
    FOREACH role IN ARRAY ARRAY['dtq_owner', 'dtq_api', 'dtq_worker', 'dtq_operator', 'dtq_readonly'] LOOP
        -- Roles belong to the server: another of its databases may have dtq too.
        IF to_regrole(role) IS NULL THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;  -- made in the meantime
            END;
        END IF;
    END LOOP;
    -- Migrations run as the owner, hence the user that migrates is a member.
    IF NOT pg_has_role({user_text}, 'dtq_owner', 'USAGE') THEN
        GRANT dtq_owner TO {user};
    END IF;

    GRANT USAGE, CREATE ON SCHEMA {schema} TO dtq_owner;
    REVOKE ALL ON SCHEMA {schema} FROM dtq_api, dtq_worker, dtq_operator, dtq_readonly;
    REVOKE CREATE ON SCHEMA {schema} FROM PUBLIC;
    GRANT USAGE ON SCHEMA {schema} TO dtq_api, dtq_worker, dtq_operator, dtq_readonly;
    IF has_schema_privilege('dtq_readonly', {schema_text}::regnamespace, 'CREATE') THEN
        RAISE insufficient_privilege USING MESSAGE = 'only its owner can keep users from creating objects in schema '
            || {schema_text};
    END IF;

    -- Functions run as their owner. An owner that is nothing else has the rights of dtq and no others.
    FOR ours IN
        SELECT format('TABLE %s', c.oid::regclass) AS object FROM pg_class c
        WHERE c.relowner <> 'dtq_owner'::regrole AND (
            c.oid = ANY (string_to_array('{tables}', ', ')::regclass[])
            OR c.oid IN (SELECT i.inhrelid FROM pg_inherits i WHERE i.inhparent = 'task_events'::regclass))
        UNION ALL
        SELECT format('FUNCTION %s', p.oid::regprocedure) FROM pg_proc p
        WHERE p.proowner <> 'dtq_owner'::regrole
            AND p.pronamespace = {schema_text}::regnamespace AND p.proname LIKE 'dtq\_%'
    LOOP
        EXECUTE format('ALTER %s OWNER TO dtq_owner', ours.object);
    END LOOP;
END;
$$;
