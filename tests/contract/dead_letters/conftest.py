"""What the suites of dead letters run over."""

from collections.abc import AsyncIterator

import pytest
from support.brokers import Opened
from support.dead_letter_desk import Desk
from support.state_stores import opening


@pytest.fixture
async def desk(opened: Opened) -> AsyncIterator[Desk]:
    store = "sqlite" if opened.backend.durable else "memory"
    async with opened() as broker, opening(store, opened.directory) as state:
        await broker.declare(1, ["encoders"])
        yield Desk(broker, state, opened)
