"""What the names of a turn's journal steps begin with. Stored: a journal outlives the version that wrote it."""

from typing import Final

ANSWER: Final = "answer/"
"""Before the number of a model call, from 0: its answer, which led to calls."""
START: Final = "start/"
"""Before a call's id: it may have been made."""
RESULT: Final = "result/"
"""Before a call's id: what it came to."""
KEY: Final = "key/"
"""Before a call's id: the key under which a message that this one goes on for has started it."""
PROMISE: Final = "promise/"
"""Before a promise's name: how many calls had started when it was made."""
