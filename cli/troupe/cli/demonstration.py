"""What the demo does: start a fleet, apply `examples/first-fleet`, ask its agent, show the turn, stop."""

import os
from pathlib import Path

from rich.text import Text

from troupe.chassis import lifecycle, logs
from troupe.chassis.errors import FailedPrecondition
from troupe.cli import model_endpoint, names
from troupe.cli.apply import declarations, merged
from troupe.cli.clients import control_plane, gateway
from troupe.cli.conversation import converse, message
from troupe.cli.edge import FAILED, INTERRUPTED, complain
from troupe.cli.fleet import Fleet, FleetSettings, running
from troupe.cli.following import follow
from troupe.cli.output import Format, Output, output
from troupe.cli.rollout import explained, stage
from troupe.cli.stopping import unless
from troupe.cli.transcript import Transcript
from troupe.resources.manifest import Declared
from troupe.v1 import turn_pb2
from troupe.v1.envelope_pb2 import SessionRef

QUESTION = "What is 123456789 * 987654321?"
AGENT = "clerk"
TOOL = "calculator"
DATA = Path(".troupe/demo")
MANIFESTS = Path(__file__).parents[3] / "examples/first-fleet"
ROLLOUT_TIMEOUT = 30.0
"""Seconds that the worker gets to take the manifests."""

HASTE = {"drain_timeout": 0.0, "stop_grace": 0.5, "metrics_listen": "", "log_level": "warning"}
"""Nobody else uses this fleet: it stops at once, counts for nobody and keeps its logs to itself."""


def demonstrate() -> int:
    """Start, ask, show and stop; the exit status: 130 after Ctrl-C."""
    if not MANIFESTS.is_dir():
        raise FailedPrecondition("NO_EXAMPLES", f"there is no {MANIFESTS}; run the demo in a checkout of Troupe")
    logs.configure(level="error", service="demo")
    settings = FleetSettings.load(DATA, model_endpoint.named(None, None, os.environ), HASTE)
    declared = declarations([os.path.relpath(MANIFESTS)])

    async def main(stop: lifecycle.Stop) -> int:
        code = await unless(stop, _demo(settings, declared, output(Format.TABLE)))
        return INTERRUPTED if code is None else code

    return lifecycle.run(main)


async def _demo(settings: FleetSettings, declared: list[Declared], printer: Output) -> int:
    async with running(settings) as fleet:
        printer.say(_line("fleet", f"control plane {fleet.endpoints.server}, worker {fleet.endpoints.gateway}"))
        printer.say(_line("model", fleet.model))
        if not await _applied(fleet, declared, printer):
            return FAILED
        transcript = await _asked(fleet, printer)
        if transcript.fate != turn_pb2.FATE_DONE:
            return FAILED
        if not transcript.calls:
            printer.say(Text(f"\nThe model answered without calling the tool {TOOL}; another one may.", style="yellow"))
    printer.say(Text("\nEverything is stopped. A fleet of your own: troupe up examples/first-fleet"))
    return 0


async def _applied(fleet: Fleet, declared: list[Declared], printer: Output) -> bool:
    async with control_plane(fleet.endpoints.server) as client:
        revised = await merged(client, declared)
        what = f"examples/{MANIFESTS.name}, revision {revised.revision.generation}"
        printer.say(_line("applied", what if revised.difference else f"{what}, unchanged"))
        followed = await follow(client, revised.revision, ROLLOUT_TIMEOUT, lambda _: None)
    if not followed.complete:
        complain(f"{stage(followed.revision.rollout)}: {explained(followed.revision)}")
    return followed.complete


async def _asked(fleet: Fleet, printer: Output) -> Transcript:
    session = SessionRef(agent=AGENT, session=names.new_session())
    printer.say(_line("session", names.shown(session)), Text(), Text(f"you> {QUESTION}", style="bold"))
    transcript = Transcript(printer)
    async with gateway(fleet.endpoints.gateway) as worker:
        async for event in converse(worker, message(session, QUESTION)):
            transcript.show(event)
    return transcript


def _line(name: str, value: str) -> Text:
    return Text.assemble((f"{name:<9}", "bold"), value)
