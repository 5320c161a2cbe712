"""What the tests of the local stack share."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture
def services_folder() -> Iterator[Path]:
    """A folder that, unlike tmp_path, the servers' own users can reach."""
    with tempfile.TemporaryDirectory(prefix="dtq-stack-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
