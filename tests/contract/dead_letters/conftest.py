"""What the suites of dead letters run over."""

from collections.abc import AsyncIterator

import pytest
from support.brokers import Opened
from support.dead_letter_desk import Desk
from support.state_stores import STORES


@pytest.fixture
async def desk(opened: Opened) -> AsyncIterator[Desk]:
    store = STORES["sqlite" if opened.backend.durable else "memory"]
    async with opened() as broker, store(opened.directory) as state:
        await broker.declare(1, ["encoders"])
        yield Desk(broker, state, opened)
