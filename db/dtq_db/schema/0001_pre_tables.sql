-- Tables. Measured settings: uuid (version 7) keys; fillfactor 50, so that most updates stay in their page;
-- no index on `status`: it would cost every claim and finish a new entry in each index.

CREATE TABLE catalog_revision (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    revision bigint NOT NULL DEFAULT 1,
    types_deleted_at bigint NOT NULL DEFAULT 0,
    queue_sets_changed_at bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE catalog_revision IS 'Moves with every change of task_type, queue_set or queue: caches compare it.';
COMMENT ON COLUMN catalog_revision.types_deleted_at IS 'The revision of the last deletion of a task type.';
COMMENT ON COLUMN catalog_revision.queue_sets_changed_at IS 'The revision of the last change of a queue set or queue.';
INSERT INTO catalog_revision DEFAULT VALUES;

CREATE TABLE resource_claim (
    kind text NOT NULL CHECK (kind IN ('TaskType', 'QueueSet')),
    key text NOT NULL,
    owner_uid text NOT NULL,
    owner_namespace text NOT NULL,
    owner_name text NOT NULL,
    generation bigint NOT NULL DEFAULT 0,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (kind, key)
);
COMMENT ON TABLE resource_claim IS 'Who owns a name: the loser of a conflict never has an effect.';

CREATE TABLE queue_set (
    name text PRIMARY KEY,
    namespace text NOT NULL UNIQUE,
    retry_delays_seconds integer[] NOT NULL,
    dead_letter boolean NOT NULL DEFAULT true,
    paused boolean NOT NULL DEFAULT false,
    deletion_policy text NOT NULL DEFAULT 'Retain',
    removal_queue text,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN queue_set.removal_queue IS 'spec.onRemoval: the queue that takes the tasks of a removed one; null refuses.';

-- Claim: which sets are paused, whatever their number.
CREATE INDEX queue_set_paused ON queue_set (name) WHERE paused;

CREATE TABLE queue (
    queue_set text NOT NULL REFERENCES queue_set (name) ON DELETE CASCADE,
    name text NOT NULL,
    position integer NOT NULL,
    type text NOT NULL CHECK (type IN ('Quorum', 'Classic')),
    max_length integer,
    scaling jsonb NOT NULL DEFAULT '{}',
    PRIMARY KEY (queue_set, name)
);
COMMENT ON COLUMN queue.position IS 'Order of urgency within the set, from 0.';

CREATE TABLE task_type (
    type text PRIMARY KEY,
    active boolean NOT NULL DEFAULT true,
    default_queue text NOT NULL,
    default_max_attempts integer NOT NULL DEFAULT 5 CHECK (default_max_attempts BETWEEN 1 AND 20),
    payload_schema jsonb,
    queue_set text NOT NULL DEFAULT 'default',
    timeout_seconds integer NOT NULL DEFAULT 300,
    backoff jsonb,
    max_payload_bytes integer NOT NULL DEFAULT 262144,
    retention_succeeded_seconds integer NOT NULL DEFAULT 604800,
    retention_failed_seconds integer NOT NULL DEFAULT 2592000,
    deletion_policy text NOT NULL DEFAULT 'Deactivate',
    revision bigint NOT NULL DEFAULT 1,
    concurrency jsonb,
    rate_limit jsonb,
    updated_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON COLUMN task_type.backoff IS 'spec.backoff as declared; null means the default of the worker.';
COMMENT ON COLUMN task_type.concurrency IS 'spec.concurrency as declared: {"limit": 3, "key": "customer.id"}.';
COMMENT ON COLUMN task_type.rate_limit IS 'spec.rateLimit as declared: {"tasks": 100, "perSeconds": 60, "burst": 10}.';

COMMENT ON COLUMN task_type.revision IS 'The revision of the catalog at its last change: a cache reads what is newer.';
CREATE INDEX task_type_revision ON task_type (revision);

CREATE TABLE task_type_deletion (
    type text PRIMARY KEY REFERENCES task_type (type) ON DELETE CASCADE,
    looked_through uuid NOT NULL,
    last_id uuid NOT NULL
);
COMMENT ON TABLE task_type_deletion IS
    'A type may go once no task refers to it: there is none with an id up to looked_through, or beyond last_id.';

CREATE TABLE type_limit (
    type text PRIMARY KEY REFERENCES task_type (type) ON DELETE CASCADE,
    tokens double precision NOT NULL,
    refilled_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE type_limit IS
    'One row for each limited type: its lock, and its token bucket as it was at refilled_at.';

CREATE TABLE schedule (
    type text NOT NULL REFERENCES task_type (type) ON DELETE CASCADE,
    name text NOT NULL,
    cron text NOT NULL,
    timezone text NOT NULL,
    payload jsonb NOT NULL,
    next_fire_at timestamptz,
    PRIMARY KEY (type, name)
);
COMMENT ON COLUMN schedule.next_fire_at IS 'null until a scheduler has seen the entry.';

CREATE INDEX schedule_due ON schedule (next_fire_at NULLS FIRST);

CREATE TABLE workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    queues text[] NOT NULL,
    types text[] NOT NULL,
    concurrency integer NOT NULL,
    namespace text,
    running jsonb NOT NULL DEFAULT '{}',
    started_at timestamptz NOT NULL DEFAULT now(),
    lease_expires_at timestamptz NOT NULL,
    reaped_at timestamptz,
    memory_group text,
    memory jsonb
);
COMMENT ON COLUMN workers.id IS 'Boot identity: a restarted or fenced worker comes back as another row.';
COMMENT ON COLUMN workers.namespace IS 'Prefix of the queues that it consumes; null (not told) stands for any prefix.';
COMMENT ON COLUMN workers.running IS 'Handlers running now, by queue set and queue: {"default/high": 3}.';
COMMENT ON COLUMN workers.reaped_at IS 'Set once no task of an expired worker is RUNNING any more.';
COMMENT ON COLUMN workers.memory_group IS 'The control group whose memory limit the worker shares; null without a limit.';
COMMENT ON COLUMN workers.memory IS 'Memory of that group, as last told: {"limit_bytes", "used_bytes", "oom_kills"}.';
-- Reaper: whether the kernel has ended a process of the same group since.
CREATE INDEX workers_memory_group ON workers (memory_group) WHERE memory_group IS NOT NULL;

CREATE INDEX workers_unreaped ON workers (lease_expires_at) WHERE reaped_at IS NULL;

CREATE TABLE worker_claims (
    worker_id uuid NOT NULL,
    task_ids uuid[] NOT NULL
);
COMMENT ON TABLE worker_claims IS
    'What each worker has claimed and may still run: a claim adds a row for its batch, a renewal drops what has ended.';
CREATE INDEX worker_claims_worker ON worker_claims (worker_id);

-- No foreign key to task_type: its check would read every task when a type is deleted. dtq_enqueue locks the type
-- instead, and a deletion makes sure that no task refers to it.
CREATE TABLE tasks (
    id uuid PRIMARY KEY,
    type text NOT NULL,
    queue text NOT NULL,
    status text NOT NULL CHECK (status IN ('ENQUEUED', 'RUNNING', 'SUCCEEDED', 'FAILED', 'CANCELLED', 'DLQ')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    max_attempts integer NOT NULL DEFAULT 5 CHECK (max_attempts >= 1),
    last_error text,
    result jsonb,
    payload jsonb NOT NULL,
    idempotency_key text,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    queue_set text NOT NULL DEFAULT 'default',
    run_at timestamptz NOT NULL DEFAULT now(),
    needs_publish boolean,
    publish_at timestamptz,
    worker_id uuid,
    crashes integer NOT NULL DEFAULT 0,
    replays integer NOT NULL DEFAULT 0,
    redrives integer NOT NULL DEFAULT 0,
    cancel_requested_at timestamptz,
    cancelled_at timestamptz,
    failed_at timestamptz,
    dead_letter_at timestamptz,
    dead_lettered_at timestamptz,
    slot text,
    blocked_on text,
    last_traceback text,
    uncounted_attempts integer,
    snoozes integer,
    snoozed_since timestamptz,
    suspected_at timestamptz,
    alone_at timestamptz,
    CONSTRAINT attempts_within_budget CHECK (attempts <= max_attempts),
    CONSTRAINT enqueued_has_budget CHECK (status <> 'ENQUEUED' OR attempts < max_attempts),
    CONSTRAINT waiting_is_enqueued CHECK ((status = 'ENQUEUED') = (needs_publish IS NOT NULL)),
    CONSTRAINT publish_at_while_waiting CHECK ((needs_publish IS NULL) = (publish_at IS NULL)),
    CONSTRAINT failed_at_while_failed CHECK ((status = 'FAILED') = (failed_at IS NOT NULL)),
    CONSTRAINT dead_letter_while_failed CHECK (dead_letter_at IS NULL OR status = 'FAILED'),
    CONSTRAINT cancelled_at_while_cancelled CHECK ((status = 'CANCELLED') = (cancelled_at IS NOT NULL)),
    CONSTRAINT running_has_worker CHECK (status <> 'RUNNING' OR worker_id IS NOT NULL),
    CONSTRAINT slot_while_running CHECK (slot IS NULL OR status = 'RUNNING'),
    CONSTRAINT blocked_while_enqueued CHECK (blocked_on IS NULL OR status = 'ENQUEUED'),
    CONSTRAINT suspected_until_it_ends CHECK (suspected_at IS NULL OR status IN ('ENQUEUED', 'RUNNING')),
    CONSTRAINT alone_while_running CHECK (alone_at IS NULL OR (status = 'RUNNING' AND suspected_at IS NOT NULL))
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
COMMENT ON COLUMN tasks.needs_publish IS
    'The outbox: true = to be published, false = the broker confirmed it, null = not waiting for a worker.';
COMMENT ON COLUMN tasks.publish_at IS
    'needs_publish: when the relay publishes it. Otherwise: since when a message should be in the broker.';
COMMENT ON COLUMN tasks.worker_id IS 'The last worker that claimed it; with attempts the fencing token.';
COMMENT ON COLUMN tasks.replays IS 'Idempotent hits answered with this row: such a row may not be undone.';
COMMENT ON COLUMN tasks.dead_letter_at IS
    'The outbox of dead letters: since when its copy is due in the dead letter queue; null once it is there.';
COMMENT ON COLUMN tasks.dead_lettered_at IS 'When the broker confirmed the copy in the dead letter queue.';
-- Null for every task of a type without limits, so that its updates stay in their page.
COMMENT ON COLUMN tasks.slot IS 'What it is counted under while it runs: its type, and a hash of its concurrency key.';
COMMENT ON COLUMN tasks.blocked_on IS 'The slot in which it waits for room; null for a task that no limit holds back.';
COMMENT ON COLUMN tasks.idempotency_key IS
    'Unique within its type. The scheduler''s keys begin with U+001F, which no client''s key may hold.';
-- Null unless an attempt failed, or did not count.
COMMENT ON COLUMN tasks.last_traceback IS 'Where the handler raised last_error.';
COMMENT ON COLUMN tasks.uncounted_attempts IS
    'Attempts that the budget does not count; the task''s own budget is max_attempts less these.';
COMMENT ON COLUMN tasks.snoozes IS 'Snoozes since the task was enqueued or redriven, and the first of them.';
-- Null for every task that never ran in a worker that was lost.
COMMENT ON COLUMN tasks.suspected_at IS
    'Since when it is a suspect: a worker was lost while it ran, and it runs alone until an attempt ends by itself.';
COMMENT ON COLUMN tasks.alone_at IS 'Since when it runs alone, as a suspect: the loss of its worker is its own doing.';

CREATE UNIQUE INDEX tasks_idempotency_key ON tasks (type, idempotency_key) WHERE idempotency_key IS NOT NULL;
-- Relay: what is due, by queue, so that a paused set or another queue's backlog costs it nothing.
CREATE INDEX tasks_outbox ON tasks (queue_set, queue, publish_at) WHERE needs_publish;
-- Topology watch: what a broker that lost its data no longer holds.
CREATE INDEX tasks_published ON tasks (queue_set, queue, publish_at) WHERE NOT needs_publish;
CREATE INDEX tasks_cancel_requested ON tasks (worker_id) WHERE cancel_requested_at IS NOT NULL;
CREATE INDEX tasks_slot ON tasks (slot) WHERE slot IS NOT NULL;
CREATE INDEX tasks_blocked ON tasks (blocked_on, run_at, id) WHERE blocked_on IS NOT NULL;
-- Redrive: what failed, oldest failure first. A task that succeeds is in none of these and of the next.
CREATE INDEX tasks_failed ON tasks (failed_at, id) WHERE failed_at IS NOT NULL;
CREATE INDEX tasks_failed_type ON tasks (type, failed_at, id) WHERE failed_at IS NOT NULL;
-- Lists of what failed or was cancelled, newest first. The order of id::text is that of id; named so, the planner
-- cannot take the primary key instead and walk everything that succeeded.
CREATE INDEX tasks_failed_page ON tasks ((id::text COLLATE "C")) WHERE failed_at IS NOT NULL;
CREATE INDEX tasks_failed_type_page ON tasks (type, (id::text COLLATE "C")) WHERE failed_at IS NOT NULL;
CREATE INDEX tasks_cancelled_page ON tasks ((id::text COLLATE "C")) WHERE cancelled_at IS NOT NULL;
CREATE INDEX tasks_dead_letter ON tasks (queue_set, dead_letter_at) WHERE dead_letter_at IS NOT NULL;

-- The revision is taken before a row is written and held until the end of the transaction: a reader that sees a
-- revision sees every row of it and of earlier revisions.

CREATE FUNCTION dtq_revise_task_type() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalog_revision SET revision = revision + 1 RETURNING revision INTO NEW.revision;
    RETURN NEW;
END;
$$;
CREATE TRIGGER task_type_revised BEFORE INSERT OR UPDATE ON task_type
    FOR EACH ROW EXECUTE FUNCTION dtq_revise_task_type();

CREATE FUNCTION dtq_revise_types_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalog_revision SET revision = revision + 1, types_deleted_at = revision + 1;
    RETURN NULL;
END;
$$;
CREATE TRIGGER task_type_deleted AFTER DELETE OR TRUNCATE ON task_type
    FOR EACH STATEMENT EXECUTE FUNCTION dtq_revise_types_deleted();

CREATE FUNCTION dtq_revise_queue_sets() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE catalog_revision SET revision = revision + 1, queue_sets_changed_at = revision + 1;
    RETURN NULL;
END;
$$;
CREATE TRIGGER queue_set_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue_set
    FOR EACH STATEMENT EXECUTE FUNCTION dtq_revise_queue_sets();
CREATE TRIGGER queue_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON queue
    FOR EACH STATEMENT EXECUTE FUNCTION dtq_revise_queue_sets();
