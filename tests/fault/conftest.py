"""Servers of a module's own, which its tests may stop, block and fill."""

from collections.abc import Iterator

import pytest
from support import rabbitmq, redis_server


@pytest.fixture(scope="module")
def node() -> Iterator[rabbitmq.Node]:
    with rabbitmq.running() as node:
        yield node


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis_server.RedisServer]:
    with redis_server.running(tmp_path_factory.mktemp("redis")) as server:
        yield server
