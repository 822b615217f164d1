"""What several contract suites run over."""

from pathlib import Path

import pytest
from support.hosting import Backends


@pytest.fixture(params=["memory", "sqlite"])
def backends(request: pytest.FixtureRequest, tmp_path: Path) -> Backends:
    """Mailboxes and state, in memory or in files."""
    return Backends(tmp_path if request.param == "sqlite" else None)
