"""Kinds of handler that people write: after each the worker is ready and no neighbour has noticed."""

import json
import re
from pathlib import Path

import pytest

from tests.worker.handlers.conftest import Street, ends
from tests.worker.handlers.kinds import KINDS

CASES = [pytest.param(name, mode, id=f"{name}-{mode}") for name, kind in KINDS.items() for mode in kind.modes.split()]


@pytest.mark.parametrize(("name", "mode"), CASES)
async def test_a_kind_of_handler_ends_as_it_should_and_hurts_nobody(
    street: Street, name: str, mode: str, tmp_path: Path
) -> None:
    kind = KINDS[name]
    await street.open()
    until = await street.move_in(tmp_path)
    try:
        for _ in range(2):
            row = await ends(street, f"{kind.type}.{mode}", kind.seconds, kind=name)
            if kind.says is None:
                assert (row["status"], json.loads(row["result"] or "null")) == ("SUCCEEDED", kind.gives), row
            else:
                assert row["status"] == "FAILED", row["result"]
                assert re.search(kind.says, row["last_error"]), row["last_error"]
            assert (row["attempts"], row["crashes"]) == (1, 0)
        await street.is_unharmed(until)
    finally:
        until.touch()
