"""Drawing and what is drawn: pictures are well-formed, rates and slopes are right."""

from xml.etree import ElementTree as ET

import pytest

from tests.faults.plot import Line, Mark, draw, rates, slope


def test_a_picture_is_well_formed_whatever_its_names() -> None:
    lines = [Line(name="a < b & c", points=[(0, 1), (10, 5)]), Line(name="empty", points=[])]
    root = ET.fromstring(draw("<title>", lines, [Mark(since=1, until=2, heavy=True)], unit="tasks"))
    assert "a < b & c" in {element.text for element in root.iter() if element.text}


def test_a_lone_peak_is_cut_off_and_told() -> None:
    points = [(float(at), 10.0) for at in range(100)]
    assert "peaks" not in draw("load", [Line(name="a", points=points)], unit="tasks a second")
    assert "the highest is 200" in draw("load", [Line(name="a", points=[*points, (101, 200)])], unit="tasks a second")


def test_the_rate_of_a_steady_counter_is_its_pace() -> None:
    counted = [(at / 2, at * 10.0) for at in range(40)]
    found = rates(counted, 3.0)
    assert found
    assert all(rate == pytest.approx(20.0) for _, rate in found)


def test_the_rate_of_a_counter_that_stands_still_is_nothing() -> None:
    counted = [(at / 2, 5.0) for at in range(40)]
    assert {rate for _, rate in rates(counted, 3.0)} == {0.0}


@pytest.mark.parametrize(
    ("points", "wanted"),
    [([], 0.0), ([(1, 1)], 0.0), ([(1, 1), (1, 2)], 0.0), ([(0, 5), (10, 25), (20, 45)], 2.0), ([(0, 3), (9, 3)], 0.0)],
)
def test_a_slope_is_growth_a_second(points: list[tuple[float, float]], wanted: float) -> None:
    assert slope(points) == pytest.approx(wanted)
