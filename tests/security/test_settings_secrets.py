"""A password in a connection string is never shown, however the string is malformed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dtq.domain.errors import Rejected
from dtq.runtime.environment import load, masked
from dtq.runtime.settings import AllSettings

SECRET = "hunter2"
PIECES = st.lists(st.sampled_from([*"@:/#?%&= ", "%40", "sslmode=", "x=", "host=", SECRET]), max_size=8).map("".join)


def shown(dsn: str) -> str:
    """Return all that `dtq config` can print of a connection string: its errors, or the masked settings."""
    environ = {"DB_DSN": dsn, "RMQ_USER": "dtq", "RMQ_PASS": "guest-password", "RMQ_HOST": "localhost"}
    try:
        return str(masked(load(environ, AllSettings)))
    except Rejected as error:
        return f"{error} {error.problems}"


@given(PIECES, PIECES)
def test_no_piece_of_a_malformed_password_is_shown(before: str, after: str) -> None:
    assert SECRET not in shown(f"postgres://dtq:{before}{SECRET}{after}@localhost:5432/dtq")


@pytest.mark.parametrize(
    "query",
    [f"password={SECRET}", f"sslpassword={SECRET}", f"options=-c%20custom.secret={SECRET}", f"passfile=/etc/{SECRET}"],
)
def test_parameters_that_may_hold_a_secret_are_masked(query: str) -> None:
    assert SECRET not in shown(f"postgres://dtq@localhost/dtq?{query}")
