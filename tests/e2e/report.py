"""The report of a mission: `docs/e2e-report.md` and the plot of replicas over time beside it.

Every number was measured in the run that it reports.
"""

from collections.abc import Sequence

from hack.cluster.native import versions
from tests.e2e.release import BURST_MAX, ROOT
from tests.e2e.watching import Replicas
from tests.e2e.world import World

REPORT = ROOT / "docs" / "e2e-report.md"
PLOT = ROOT / "docs" / "e2e-replicas.svg"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 720, 260, 44, 34, 24
TICKS = 6
WANTED, READY = "#888888", "#1f6feb"


def write(world: World) -> None:
    """Write both files."""
    PLOT.write_text(plot(world.replicas))
    REPORT.write_text(text(world))


def text(world: World) -> str:
    """The report."""
    assert world.verdict is not None
    modules = versions.modules()
    used = ", ".join(
        f"{name} {modules[name].version}" for name in ("kubernetes", "keda", "prometheus-operator", "prometheus")
    )
    rows = "\n".join(f"| {step.name} | {step.seconds:.1f} |" for step in world.steps)
    tasks = world.recorder.ordered
    answers = len(world.recorder.calls)
    return f"""\
# The mission, end to end

Written by `make e2e` in its last run: the chart in a real cluster
({used}),
in a namespace that admits only `restricted` pods, with demo servers of one pod each. A pod enqueues by the Service's
name with its ServiceAccount's token. Answers and handler runs are written to disk before they count, and the fault
suite's checker gives the verdict.

**Verdict:** {world.verdict}

{tasks} tasks were attempted and {world.recorder.accepted} accepted, with {answers} requests: refused or unanswered
requests were repeated with the same key. {world.recorder.succeeded} succeeded; {world.failing} cannot succeed,
one that always raises and one that exhausts memory, and became dead letters.

| step | seconds |
|---|---|
{rows}

Replicas of the pool that KEDA scales, from no worker over a burst back to none (at most {BURST_MAX}):

![wanted and ready replicas over time](e2e-replicas.svg)

Prometheus evaluated {len(world.rules)} rules without an error, and {world.dashboard_queries} different queries of the
dashboards gave data.
"""


def plot(seen: Sequence[Replicas]) -> str:
    """Wanted and ready replicas as steps over seconds."""
    begun, ended = seen[0].at, seen[-1].at
    most = max(1, *(max(sample.wanted, sample.ready) for sample in seen))
    span = max(1.0, ended - begun)

    def x(at: float) -> float:
        return LEFT + (at - begun) / span * (WIDTH - LEFT - 10)

    def y(count: float) -> float:
        return HEIGHT - BOTTOM - count / most * (HEIGHT - BOTTOM - TOP)

    def line(counts: Sequence[int], colour: str) -> str:
        points = [f"{x(seen[0].at):.1f},{y(counts[0]):.1f}"]
        for sample, before, count in zip(seen[1:], counts, counts[1:], strict=False):
            points += [f"{x(sample.at):.1f},{y(before):.1f}", f"{x(sample.at):.1f},{y(count):.1f}"]
        return f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(points)}"/>'

    labels = [
        f'<text x="{LEFT - 8}" y="{y(count) + 4:.1f}" text-anchor="end">{count}</text>'
        f'<line x1="{LEFT}" x2="{WIDTH - 10}" y1="{y(count):.1f}" y2="{y(count):.1f}" stroke="#dddddd"/>'
        for count in range(most + 1)
    ]
    ticks = [
        f'<text x="{x(begun + at):.1f}" y="{HEIGHT - 14}" text-anchor="middle">{at:.0f} s</text>'
        for at in (span * part / TICKS for part in range(TICKS + 1))
    ]
    legend = (
        f'<text x="{LEFT}" y="14" fill="{WANTED}">wanted</text><text x="{LEFT + 60}" y="14" fill="{READY}">ready</text>'
    )
    lines = [line([sample.wanted for sample in seen], WANTED), line([sample.ready for sample in seen], READY)]
    font = 'font-family="sans-serif" font-size="12"'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" {font}>'
    ground = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>'
    return "\n".join([head, ground, legend, *labels, *ticks, *lines, "</svg>", ""])
