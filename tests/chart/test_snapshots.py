"""What the chart renders is looked at in a diff before it changes."""

from hack import chart


def test_nothing_that_is_generated_is_stale() -> None:
    found = [str(path.relative_to(chart.ROOT)) for path in chart.stale()]
    assert not found, "run python -m hack.chart, and look at the diff"
