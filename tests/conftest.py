"""What holds for every test, and servers that tests of several suites share."""

import contextlib
import logging
import os
import signal
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings
from support import rabbitmq

# How long an example takes says how busy the machine is: tests that claim a time measure it themselves.
settings.register_profile("troupe", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("troupe")

# A shell's background job ignores Ctrl-C, and so would every program that a test starts.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _logging_as_it_was() -> Iterator[None]:
    """A command, or a program, sets up logging for its whole process, which here runs the next test too."""
    loggers = [logging.getLogger(name) for name in (None, "aiohttp.access", "asyncio")]
    before = [(logger, logger.level, logger.handlers[:]) for logger in loggers]
    yield
    structlog.reset_defaults()
    for logger, level, handlers in before:
        logger.setLevel(level)
        logger.handlers[:] = handlers


@pytest.fixture(scope="session")
def rabbitmq_server() -> Iterator[rabbitmq.Node | rabbitmq.Given]:
    """One server for the whole run, started by the first test that asks."""
    if given := os.environ.get(rabbitmq.GIVEN_URL):
        yield rabbitmq.Given(given)
        return
    with rabbitmq.running() as node:
        yield node


@pytest.fixture
def rabbitmq_node(rabbitmq_server: rabbitmq.Node | rabbitmq.Given) -> rabbitmq.Node:
    """That server, for tests that tell it what to do: not to end it, for which there is `rabbitmq.running`."""
    if isinstance(rabbitmq_server, rabbitmq.Given):
        pytest.fail(f"this commands a RabbitMQ of its own; it cannot run with {rabbitmq.GIVEN_URL}")
    return rabbitmq_server


@pytest.fixture
def amqp_url(rabbitmq_server: rabbitmq.Node | rabbitmq.Given) -> Iterator[str]:
    """The URL of a vhost in which nothing is: a fleet of the test's own."""
    url = rabbitmq_server.vhost()
    yield url
    with contextlib.suppress(rabbitmq.CommandFailed):
        rabbitmq_server.drop_vhost(url)
