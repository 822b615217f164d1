"""Restate's counter: a virtual object, served as its documentation says for production, and with uvloop.

`python peer.py PORT PROCESSES` serves it by hypercorn. `count` reads and sets the object's state and answers with it;
`count_with_a_step` has one recorded step before, as a tool call has.
"""

import sys

import restate
from hypercorn.config import Config
from hypercorn.run import run

counter = restate.VirtualObject("Counter")


@counter.handler()
async def count(context: restate.ObjectContext, message: str) -> str:
    number = (await context.get("count", type_hint=int) or 0) + 1
    context.set("count", number)
    return str(number)


async def tool() -> str:
    return "found"


@counter.handler()
async def count_with_a_step(context: restate.ObjectContext, message: str) -> str:
    await context.run_typed("tool", tool)
    number = (await context.get("count", type_hint=int) or 0) + 1
    context.set("count", number)
    return str(number)


app = restate.app([counter])


def main(port: int, processes: int) -> None:
    config = Config()
    config.application_path = "peer:app"
    config.bind = [f"127.0.0.1:{port}"]
    config.worker_class = "uvloop"
    config.workers = processes
    config.h2_max_concurrent_streams = 2147483647
    config.keep_alive_max_requests = 2147483647
    config.keep_alive_timeout = 2147483647
    run(config)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
