"""`troupe chat`: a conversation with an agent, token by token."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from typing import Annotated

import typer

from troupe.chassis.errors import NotFound, TroupeError
from troupe.cli import names
from troupe.cli.clients import Gateway, control_plane, gateway
from troupe.cli.conversation import converse, message
from troupe.cli.edge import Refused, complain, first_failure, note
from troupe.cli.invocation import Invocation, alone
from troupe.cli.output import Output
from troupe.cli.transcript import Transcript
from troupe.resources.nearest import nearest
from troupe.v1 import agent_pb2, turn_pb2
from troupe.v1.envelope_pb2 import SessionRef

LOOK_UP_WITHIN = 1.0
"""Seconds that the control plane gets to say what agents there are."""
CANCEL_WITHIN = 5.0
"""Seconds that a cancelled turn gets to say so; then the stream is left."""

AgentArgument = Annotated[str, typer.Argument(metavar="AGENT", help="AGENT or NAMESPACE/AGENT.", show_default=False)]
SessionOption = Annotated[
    str, typer.Option("--session", "-s", metavar="S", help="Go on with this session; a new one otherwise.")
]
MessageOption = Annotated[
    str | None, typer.Option("--message", "-m", metavar="TEXT", help="Say this and end after the answer.")
]


def chat(invocation: Invocation, agent: AgentArgument, session: SessionOption = "", text: MessageOption = None) -> None:
    """Talk to an agent. Without -m, line by line until Ctrl-D; Ctrl-C cancels the turn that runs."""
    ref = names.agent(agent, invocation.namespace)
    ref.session = session or names.new_session()
    if not session:
        note(f"session {names.shown(ref)}")
    with asyncio.Runner() as runner:
        runner.run(_look_up(invocation.endpoints.server, ref))
        connections = contextlib.AsyncExitStack()
        worker = runner.run(connections.enter_async_context(gateway(invocation.endpoints.gateway)))
        try:
            ask = Questions(runner, worker, ref, invocation.output)
            if text is not None:
                ask.once(text)
            elif sys.stdin.isatty():
                ask.at_the_prompt()
            else:
                ask.each(line.strip() for line in sys.stdin)
        finally:
            runner.run(connections.aclose())


async def _look_up(server: str, session: SessionRef) -> None:
    """Raise NotFound where the current revision has no such agent or actor: a worker would give it half a minute to
    appear. A control plane that does not answer is no hindrance."""
    try:
        async with asyncio.timeout(LOOK_UP_WITHIN), control_plane(server) as asked:
            current = await asked.current()
    except (TimeoutError, TroupeError):
        return
    known = {
        found.metadata.name
        for found in current.config.resources
        if found.kind in ("Agent", "Actor")
        and (found.metadata.namespace or names.DEFAULT_NAMESPACE) == (session.namespace or names.DEFAULT_NAMESPACE)
    }
    if current.HasField("revision") and session.agent not in known:
        meant = nearest(session.agent, known)
        hint = f"did you mean {meant}?" if meant else "`troupe get agents` lists what there is"
        raise NotFound("AGENT_UNKNOWN", f"there is no agent {session.agent} in the current revision; {hint}")


def commands(name: str) -> typer.Typer:
    """This module's command."""
    return alone(name, chat)


class Questions:
    """Asks one session, one question after the other, on one connection."""

    def __init__(self, runner: asyncio.Runner, worker: Gateway, session: SessionRef, output: Output) -> None:
        self._runner, self._worker, self._session, self._output = runner, worker, session, output

    def once(self, text: str) -> None:
        """Raises Refused where the turn did not end well."""
        if self._ask(text) != turn_pb2.FATE_DONE:
            raise Refused

    def each(self, lines: Iterator[str]) -> None:
        """Every line that is not empty, whatever became of those before. Raises Refused where one did not end well."""
        fates = [self._ask(line) for line in lines if line]
        if any(fate != turn_pb2.FATE_DONE for fate in fates):
            raise Refused

    def at_the_prompt(self) -> None:
        """Until Ctrl-D, or Ctrl-C at the prompt."""
        import readline  # noqa: F401  # gives input() its line editing

        while True:
            try:
                line = input("you> ").strip()
            except (EOFError, KeyboardInterrupt):
                print()
                return
            if not line:
                continue
            try:
                self._ask(line)
            except TroupeError as error:
                complain(str(error))

    def _ask(self, text: str) -> turn_pb2.Fate.ValueType:
        try:
            return self._runner.run(answered(self._worker, message(self._session, text), self._output))
        except BaseExceptionGroup as group:
            raise first_failure(group) from group


async def answered(worker: Gateway, request: agent_pb2.SendRequest, output: Output) -> turn_pb2.Fate.ValueType:
    """Send, show the turn, and answer its fate. The first Ctrl-C cancels the turn and waits for its end, at most
    CANCEL_WITHIN; the second one does not wait."""
    transcript = Transcript(output)
    interrupts = asyncio.Semaphore(0)
    with _on_interrupt(interrupts.release):
        async with asyncio.TaskGroup() as group:
            show = group.create_task(_show(worker, request, transcript))
            guard = group.create_task(_cancelling(worker, request, interrupts, show))
            show.add_done_callback(lambda _: guard.cancel())
    return transcript.fate


async def _show(worker: Gateway, request: agent_pb2.SendRequest, transcript: Transcript) -> None:
    async with contextlib.aclosing(converse(worker, request)) as events:
        async for event in events:
            transcript.show(event)


async def _cancelling(
    worker: Gateway, request: agent_pb2.SendRequest, interrupts: asyncio.Semaphore, show: "asyncio.Task[None]"
) -> None:
    await interrupts.acquire()
    ref = agent_pb2.MessageRef(session=request.session, message_id=request.message_id)
    await worker.control(agent_pb2.ControlTurnsRequest(verb=agent_pb2.VERB_CANCEL, messages=[ref]))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(CANCEL_WITHIN):
            await interrupts.acquire()
    show.cancel()


@contextlib.contextmanager
def _on_interrupt(react: Callable[[], object]) -> Iterator[None]:
    """Ctrl-C calls `react` in place of ending the program."""
    loop = asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, react)
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
