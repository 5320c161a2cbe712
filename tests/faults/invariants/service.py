"""How the processes behave: I11 bounded, I12 recovers alone, I13 answers, I14 without operator, I16 drains."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tests.faults.history import Exit, Sample
from tests.faults.invariants.index import Index, accepted, epoch

CONTROL_PLANE: Final = ("operator-", "kube-")
"""How the names of faults begin that must not touch the data plane."""
CONTROL_PLANE_SECONDS: Final = 2.0
"""A shorter outage of the control plane proves nothing."""
SYSTEM: Final = "system"
WINDOW_SECONDS: Final = 3.0
"""Over how long a throughput is taken, in seconds."""


def use_is_bounded(index: Index) -> Iterator[str | None]:
    """I11: memory, files and connections stay within their bounds."""
    limits = index.limits
    bounds = {"rss_bytes": limits.rss_bytes_max, "fds": limits.fds_max, "connections": limits.connections_max}
    most: dict[tuple[str, str], int] = defaultdict(int)
    for sample in index.history.samples:
        for name in bounds:
            value = getattr(sample, name)
            if value is not None:
                most[sample.process, name] = max(value, most[sample.process, name])
    for (process, name), value in most.items():
        yield f"{process}: {name} rose to {value}, at most {bounds[name]}" if value > bounds[name] else None


def it_recovers_alone(index: Index) -> Iterator[str | None]:
    """I12: ready again, and as fast as before, without a human."""
    limits, healed = index.limits, index.healed_at
    by_process: dict[str, list[Sample]] = defaultdict(list)
    for sample in index.history.samples:
        by_process[sample.process].append(sample)
    for process, samples in by_process.items():
        told = [sample for sample in samples if sample.ready is not None and sample.at >= healed]
        if told:
            soon = any(sample.ready and sample.at - healed <= limits.ready_seconds for sample in told)
            yield None if soon else f"{process} was not ready within {limits.ready_seconds:g} s after the faults"
    yield from _throughput(index, by_process.get(SYSTEM, []))


def answers_are_fast_and_closed(index: Index) -> Iterator[str | None]:
    """I13: an answer in time, never 500, a 503 with Retry-After; no process dies or is taken for dead."""
    for call in index.history.client:
        seconds = call.ended_at - call.started_at
        if seconds > index.limits.answer_seconds:
            yield f"call {call.n} took {seconds:.1f} s"
        elif call.status is not None and call.status >= 500 and call.status != 503 and not index.limits.bugs_injected:
            yield f"call {call.n} was answered {call.status}: {call.error}"
        elif call.status == 503 and not call.retry_after:
            yield f"call {call.n} was answered 503 without Retry-After"
        else:
            yield None
    for exit_ in index.history.exits:
        yield f"{exit_.process} ({exit_.pid}) ended by itself with {exit_.code}" if not exit_.told else None
    dead = {sample.process for sample in index.history.samples if sample.alive is False}
    for process in sorted(dead):
        yield f"{process} said that it was dead: it would have been restarted"


def data_plane_is_independent(index: Index) -> Iterator[str | None]:
    """I14: while the operator or the Kubernetes API is down, tasks are accepted and run."""
    for fault in index.history.faults:
        if not fault.name.startswith(CONTROL_PLANE) or fault.until - fault.at < CONTROL_PLANE_SECONDS:
            continue
        taken = sum(accepted(call) and fault.at <= call.ended_at <= fault.until for call in index.history.client)
        ended = sum(
            event.event == "SUCCEEDED" and fault.at <= epoch(event.at) <= fault.until for event in index.history.events
        )
        yield None if taken and ended else f"during {fault.name}: {taken} tasks accepted, {ended} succeeded"


def it_drains(index: Index) -> Iterator[str | None]:
    """I16: after SIGTERM it ends with 0 within its grace period, and a task that was not started loses no attempt."""
    for exit_ in index.history.exits:
        if exit_.told != "term":
            continue
        if exit_.code != 0:
            yield f"{exit_.process} ({exit_.pid}) was told to end and ended with {exit_.code}"
        elif exit_.seconds > index.limits.drain_seconds:
            yield f"{exit_.process} ({exit_.pid}) took {exit_.seconds:.1f} s to end"
        else:
            yield None
            yield from _burned(index, exit_)


def _burned(index: Index, exit_: Exit) -> Iterator[str]:
    """Attempts of a drained worker that count and never started."""
    leases = {worker.id for worker in index.history.workers if worker.name.endswith(f":{exit_.pid}")}
    for task_id in index.rows:
        started = {run.attempt for run in index.runs.get(task_id, []) if run.phase == "start"}
        for claim, following in index.steps(task_id):
            released = following is not None and following.event == "RELEASED"
            ours = claim.event == "RUNNING" and claim.worker_id in leases
            if ours and not released and claim.attempt not in started:
                yield f"task {task_id}: attempt {claim.attempt} never started when {exit_.process} ended, and counts"


def _throughput(index: Index, samples: list[Sample]) -> Iterator[str | None]:
    faults = index.history.faults
    counted = [(sample.at, sample.finished_total) for sample in samples if sample.finished_total is not None]
    if not faults or not counted:
        return
    first = min(fault.at for fault in faults)
    before = best_rate([sample for sample in counted if sample[0] < first])
    until = index.healed_at + index.limits.recovered_seconds
    after = best_rate([sample for sample in counted if index.healed_at <= sample[0] <= until])
    if before is None or after is None:
        return
    wanted = index.limits.recovered_share * before
    yield None if after >= wanted else f"{after:.1f} tasks a second after the faults, {before:.1f} before them"


def best_rate(counted: list[tuple[float, int]]) -> float | None:
    """The best throughput over a window, in tasks a second; None if no window is covered."""
    rates = [
        (later[1] - sooner[1]) / (later[0] - sooner[0])
        for at, sooner in enumerate(counted)
        if (later := next((sample for sample in counted[at:] if sample[0] - sooner[0] >= WINDOW_SECONDS), None))
    ]
    return max(rates, default=None)
