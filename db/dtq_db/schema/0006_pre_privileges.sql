-- Privileges of functions. Each runs as the owner of the schema, so that a process needs no privilege on what the
-- function writes, and finds its tables in the schema alone: a caller's search_path must not lead it to other tables.
-- The functions that are one expression (RETURN …) are left out: their names are bound when they are created, and a
-- setting would keep Postgres from inlining them. Which role may call which function: roles/grants.sql.
-- A function that a later migration creates or replaces needs the same three clauses (tests/db/test_roles.py).

DO $$
DECLARE
    ours record;
BEGIN
    FOR ours IN
        SELECT p.oid::regprocedure AS signature, p.prosqlbody IS NOT NULL AS is_bound
        FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname = current_schema() AND p.proname LIKE 'dtq\_%'
    LOOP
        EXECUTE format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', ours.signature);
        IF NOT ours.is_bound THEN
            EXECUTE format('ALTER FUNCTION %s SECURITY DEFINER SET search_path = %I, pg_temp',
                ours.signature, current_schema());
        END IF;
    END LOOP;
END;
$$;
