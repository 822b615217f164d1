"""What the suites of the control plane run over."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.control_planes import Client, control_plane


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[Client]:
    async with control_plane(tmp_path) as opened:
        yield opened
