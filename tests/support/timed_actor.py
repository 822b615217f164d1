"""An Actor for processes in tests that waits for times."""

import json

from troupe.dataplane.behaviours.actor_context import ActorContext
from troupe.dataplane.behaviours.promises import PromiseExpired
from troupe.v1.envelope_pb2 import Content

READ = "read"
"""The text that asks a session what came, as JSON."""


class Timed:
    """Keeps the texts that it gets, and the names of reminders. `remind AT` sets one, `ask SECONDS` waits so long for
    a promise that nobody settles."""

    async def receive(self, context: ActorContext, message: Content) -> None:
        came = json.loads(context.state or b"[]")
        word, _, rest = message.text.partition(" ")
        if word == READ:
            context.reply(json.dumps(came))
            return
        if word == "remind":
            context.remind("tick", at=float(rest))
        elif word == "ask":
            try:
                await (await context.promise("answer", expires=float(rest)))
            except PromiseExpired:
                context.reply("expired")
        else:
            context.state = json.dumps([*came, context.reminder or message.text]).encode()
