"""Actors whose code raises, wherever it does: the attempt ends, the session goes on."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.runtime import Runtime
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.agent_pb2 import MessageStatus
from troupe.v1.envelope_pb2 import Content

HERE = f"{__name__}"
RAISES = {"constructor": False}
SEEN = list[bool]()
BEGAN = asyncio.Event()


class Frail:
    """Raises where a message, or a test, says so."""

    def __init__(self) -> None:
        if RAISES["constructor"]:
            raise OSError("no constructor")

    async def receive(self, context: ActorContext, message: Content) -> None:
        match message.text:
            case "raise":
                raise OSError("no turn")
            case "exit":
                raise SystemExit(3)
            case "hang":
                try:
                    BEGAN.set()
                    await asyncio.Event().wait()
                finally:
                    SEEN.append(context.cancelled)
                    raise OSError("no clean-up")
            case "large":
                context.state = b"x" * (5 << 20)
                return
        context.state += b"."
        context.reply(str(len(context.state)))


class Older(Frail):
    """A version whose upcaster fails."""

    schema = 2
    upcasters: ClassVar = {1: lambda older: older.no_such_thing}


FLEET = """
apiVersion: troupe.dev/v1
kind: Actor
metadata: {name: frail}
spec: {entryPoint: "%s", retry: {maxRetries: 1, initialDelay: 10ms}, turnDeadline: %s}
"""


@asynccontextmanager
async def frail(directory: Path, entry: str = "Frail", deadline: str = "20s") -> AsyncIterator[Runtime]:
    RAISES["constructor"] = False
    SEEN.clear()
    BEGAN.clear()
    async with Runtime(shards=4) as runtime:
        await apply(runtime, directory, entry, deadline)
        yield runtime


async def apply(runtime: Runtime, directory: Path, entry: str, deadline: str = "20s") -> None:
    (directory / "frail.yaml").write_text(FLEET % (f"{HERE}:{entry}", deadline))
    await runtime.apply(directory)


async def said(runtime: Runtime, text: str) -> MessageStatus:
    return await runtime.send("frail", "s", text, wait=15)


def why(status: MessageStatus) -> tuple[Any, str, str]:
    return (status.fate, status.error.reason, status.error.message)


async def test_what_raises_in_a_turn_ends_the_message_after_its_tries_and_the_session_goes_on(tmp_path: Path) -> None:
    async with frail(tmp_path) as runtime:
        assert (await said(runtime, "hello")).result.text == "1"
        for text, told in (("raise", "OSError: no turn"), ("exit", "SystemExit: 3")):
            dead = await said(runtime, text)
            assert why(dead) == (turn_pb2.FATE_DEAD, "TURN_RAISED", f"frail raised {told}")
            assert dead.attempts == 2
        assert (await said(runtime, "hello")).result.text == "2"


async def test_what_raises_while_an_actor_is_made_ends_the_attempt(tmp_path: Path) -> None:
    async with frail(tmp_path) as runtime:
        RAISES["constructor"] = True
        dead = await said(runtime, "hello")
        RAISES["constructor"] = False
        assert why(dead)[1:] == ("TURN_RAISED", "frail raised OSError: no constructor")
        assert (await said(runtime, "hello")).result.text == "1"


async def test_a_state_that_an_upcaster_cannot_bring_up_to_date_stays_as_it_is(tmp_path: Path) -> None:
    async with frail(tmp_path) as runtime:
        assert (await said(runtime, "hello")).result.text == "1"
        await apply(runtime, tmp_path, "Older")
        assert why(await said(runtime, "hello"))[1] == "TURN_RAISED"
        await apply(runtime, tmp_path, "Frail")
        assert (await said(runtime, "hello")).result.text == "2"


async def test_a_state_over_its_limit_is_refused_at_once_and_the_one_before_stays(tmp_path: Path) -> None:
    async with frail(tmp_path) as runtime:
        assert (await said(runtime, "hello")).result.text == "1"
        dead = await said(runtime, "large")
        assert (dead.error.reason, dead.attempts) == ("STATE_TOO_LARGE", 1)
        assert "Actor/default/frail: the state of session s has 5,242,88" in dead.error.message
        assert (await said(runtime, "hello")).result.text == "2"


async def test_clean_up_that_raises_does_not_keep_a_cancelled_message_from_its_end(tmp_path: Path) -> None:
    async with frail(tmp_path) as runtime:
        await runtime.send("frail", "s", "hang", message_id="m1")
        await BEGAN.wait()
        assert await runtime.control(agent_pb2.VERB_CANCEL, "frail", "s", "m1") == agent_pb2.VERB_ANSWER_PENDING
        assert (await runtime.message("frail", "s", "m1", wait=15)).fate == turn_pb2.FATE_CANCELLED
        assert SEEN == [True]
        assert (await said(runtime, "hello")).result.text == "1"


async def test_a_handler_that_never_returns_ends_at_its_deadline(tmp_path: Path) -> None:
    async with frail(tmp_path, deadline="1s") as runtime:
        dead = await said(runtime, "hang")
        assert dead.fate == turn_pb2.FATE_DEAD
        assert SEEN == [False, False]
        assert (await said(runtime, "hello")).result.text == "1"
