"""What a turn has journaled, as steps, and what another message goes on with. Pure.

An agent's steps are the model's answers that led to calls; an actor's are its calls, in the order in which they were
started. A promise belongs to the step that follows it, that of an outcome to the step of its call.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from troupe.broker.addressing import SessionKey
from troupe.dataplane.behaviours import actor_calls, agent
from troupe.dataplane.behaviours.calls import ASKED, call_key
from troupe.dataplane.behaviours.step_names import ANSWER, KEY, PROMISE, RESULT, START
from troupe.dataplane.state.control import Promise
from troupe.dataplane.tools.call import ToolCall


@dataclass(frozen=True, slots=True)
class Prefix:
    """What comes before a step."""

    journal: Mapping[str, bytes]
    promises: frozenset[str]
    """Ids."""


def steps(journal: Mapping[str, bytes]) -> Sequence[Sequence[ToolCall]]:
    """The calls of each step."""
    started = actor_calls.started
    return agent.answers(journal) or [
        [ToolCall(key, start.tool, start.arguments)] for key, start in started(journal).items()
    ]


def prefix(
    journal: Mapping[str, bytes], promises: Iterable[Promise], step: int, key: SessionKey, message_id: str
) -> Prefix:
    """What a message begins with that goes on for this one from `step`. A call that was started and came to no result
    stays one, and its tool knows it, where it may be made again, by the key that it had."""
    taken = steps(journal)[:step]
    calls = [call.call_id for each in taken for call in each]
    made = [promise for promise in promises if _is_before(step, promise.name, journal, calls)]
    names = {f"{ANSWER}{each}" for each in range(len(taken))}
    names |= {f"{part}{call}" for part in (START, RESULT, KEY) for call in calls}
    names |= {f"{PROMISE}{promise.name}" for promise in made}
    kept = {name: content for name, content in journal.items() if name in names}
    for call in calls:
        if f"{START}{call}" in kept and f"{RESULT}{call}" not in kept:
            kept.setdefault(f"{KEY}{call}", call_key(key, message_id, call).encode())
    return Prefix(kept, frozenset(promise.id for promise in made))


def _is_before(step: int, name: str, journal: Mapping[str, bytes], calls: Sequence[str]) -> bool:
    if name.startswith(f"{ASKED}/"):
        return name.removeprefix(f"{ASKED}/") in calls
    return int(journal.get(f"{PROMISE}{name}") or step) < step
