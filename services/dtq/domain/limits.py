"""The fixed limits of dtq: name, unit, and the reason for each value.

Limits that a deployment may change are settings, in `dtq.runtime.settings`.
"""

from typing import Final

PAYLOAD_BYTES_MAX: Final = 1_048_576
"""Largest payload and request body, in bytes: the origin's cap. Pass larger input by reference."""

BULK_BYTES_MAX: Final = 4 * 1_048_576
"""Largest body of a bulk request, in bytes: 1,000 payloads of 4 KiB. A few at a time fit into memory."""

PAYLOAD_BYTES_DEFAULT: Final = 262_144
"""Default payload cap of a task type, in bytes: rows stay out of the TOAST hot path."""

RESULT_BYTES_MAX: Final = 262_144
"""Largest result a handler may return, in bytes; a larger result fails the task permanently."""

ERROR_CHARS_MAX: Final = 2_000
"""Longest error text kept, in characters: enough for a message, too little for a payload."""

TRACEBACK_CHARS_MAX: Final = 8_000
"""Longest traceback kept, in characters: the last frames, where the error arose."""

SNOOZES_MAX: Final = 1_000
"""Most snoozes of a task: a handler that waits for ever must fail at some point, so that people see it."""

SNOOZE_SECONDS_MAX: Final = 2_592_000
"""How long after its first snooze a task may be snoozed again, in seconds: 30 days, as failed tasks are kept."""

ATTEMPTS_MAX: Final = 20
"""Most attempts a task may ask for: the origin's bound."""

TIMEOUT_SECONDS_MAX: Final = 86_400
"""Longest run of one attempt, in seconds: a day; split longer work."""

DELAY_SECONDS_MAX: Final = 604_800
"""Longest back-off delay, in seconds: a week; the broker's TTL is far larger (2**32 - 1 ms)."""
LOST_AHEAD_SECONDS: Final = 2.0 * DELAY_SECONDS_MAX
"""How far ahead the tasks of a lost queue may be due, in seconds: tasks in its retry queues are due later."""

BACKOFF_FACTOR_MAX: Final = 10
"""Largest factor of an exponential back-off: from 1 s it reaches DELAY_SECONDS_MAX in six attempts."""

VHOST_CHARS_MAX: Final = 255
"""Longest name of a virtual host, in bytes: AMQP's short string."""

DELAYS_MAX: Final = 20
"""Most delays of a list back-off: one for each attempt that ATTEMPTS_MAX allows."""

RETRY_DELAYS_MAX: Final = 12
"""Most retry delays of a queue set: each is one durable queue per routing key."""

RETENTION_SECONDS_MAX: Final = 31_536_000
"""Longest retention, in seconds: a year; longer history belongs in a warehouse."""

RUN_AT_SECONDS_MAX: Final = 31_536_000
"""Latest `run_at`, in seconds from now: a year; anything later is treated as a mistake."""

IDEMPOTENCY_KEY_CHARS_MAX: Final = 255
"""Longest idempotency key, in characters: it is an index key."""

TYPE_CHARS_MAX: Final = 128
"""Longest task type name, in characters."""

QUEUES_MAX: Final = 32
"""Most queues of a queue set: each costs at most RETRY_DELAYS_MAX + 1 broker queues."""

MAX_LENGTH_MAX: Final = 10_000_000
"""Largest `maxLength` of a queue, in messages: RabbitMQ discourages longer backlogs."""

PREFETCH_MAX: Final = 1_000
"""Largest prefetch, in messages: beyond it one worker hoards tasks that others could run."""

REPLICAS_MAX: Final = 1_000
"""Largest replica count of a scaling hint."""

BACKLOG_PER_REPLICA_MAX: Final = 1_000_000
"""Largest scaling target, in tasks per replica."""

SCHEMA_BYTES_MAX: Final = 65_536
"""Largest payload schema, in bytes of JSON: `kubectl apply` copies it into an annotation (256 KiB in all)."""

SCHEMA_DEPTH_MAX: Final = 32
"""Deepest nesting of a payload schema; deeper nesting makes validation time explode."""

SCHEMA_REFS_MAX: Final = 200
"""Most `$ref` in a payload schema."""

SCHEMA_BRANCHES_MAX: Final = 64
"""Most branches of `anyOf`, `oneOf` and `allOf` in a payload schema, all counted: nested branches double the work."""

SCHEMA_WORK_MAX: Final = 2_000
"""Most keywords of a payload schema that may apply at one place of a payload: a union of 64 objects stays below it."""

SCHEMA_WORK_LEVELS: Final = 64
"""How many levels of a payload are followed to bound the work of a recursive schema: real payloads are less deep."""

SCHEMA_PATTERNS_MAX: Final = 64
"""Most patterns in a payload schema, `patternProperties` included: each costs compilation and memory."""

SCHEMA_REGEX_BYTES_MAX: Final = 1_000_000
"""Largest compiled pattern, in bytes: refuses `(a{1000}){1000}`."""

SCHEDULES_MAX: Final = 32
"""Most cron entries of one task type."""

PAGE_MAX: Final = 200
"""Most rows of one page."""

REDRIVE_MAX: Final = 10_000
"""Most tasks of one redrive: a person reads the count before sending more."""

LEASE_SECONDS: Final = 15.0
"""How long a worker's claims last without a renewal, in seconds: five missed renewals."""

LEASE_RENEW_SECONDS: Final = 3.0
"""How often a worker renews its lease, in seconds."""

LEASE_MARGIN_SECONDS: Final = 3.0
"""How long before the lease expires a worker that cannot renew it stops its handlers, in seconds."""

CLAIM_EARLY_SECONDS: Final = 1.0
"""How long before `run_at` a claim is already allowed, in seconds: broker and database clocks differ."""

RELAY_GRACE_SECONDS: Final = 5.0
"""How long a publisher has before the relay publishes the task instead, in seconds: the publish timeout."""

RELAY_LOST_SECONDS: Final = 30.0
"""How long a published task may wait on an *empty* queue before it counts as lost by the broker, in seconds."""

CONCURRENCY_MAX: Final = 10_000
"""Largest concurrency limit of a task type, in tasks: a claim counts what runs in a slot."""

RATE_TASKS_MAX: Final = 1_000_000
"""Largest number of starts of a rate limit, in tasks per period."""

RATE_SECONDS_MAX: Final = 86_400
"""Longest period of a rate limit, in seconds: a day, as in the quotas of other services."""

KEY_PATH_CHARS_MAX: Final = 128
"""Longest path of a concurrency key, in characters: a few field names."""

WAITING_MAX: Final = 10_000
"""Most waiting tasks of one queue that are counted before it is removed: the count is for people and must be cheap."""
