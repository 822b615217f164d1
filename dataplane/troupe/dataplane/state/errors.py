"""Why a script of the state store is refused. A script that is refused changes nothing."""

from google.rpc import code_pb2

from troupe.chassis.errors import Aborted, TroupeError


class Fenced(TroupeError):
    """The shard has another owner: `epoch` is the store's. The writer must stop, at once and without a trace."""

    code = code_pb2.ABORTED

    def __init__(self, shard: int, epoch: int) -> None:
        super().__init__("FENCED", f"shard {shard} belongs to another owner, under epoch {epoch}")
        self.epoch = epoch


class VersionConflict(Aborted):
    """The store has the session otherwise than the turn read it: load it, look at the message again."""


class Marked(Aborted):
    """The message stands under another owner's mark: its turn may still be going on there."""


class CancelRecorded(TroupeError):
    """A CANCEL or a KILL was recorded for the message, or has settled it: it may only be settled as CANCELLED. `kill`:
    without compensations."""

    code = code_pb2.CANCELLED

    def __init__(self, reason: str, message: str, *, kill: bool = False) -> None:
        super().__init__(reason, message)
        self.kill = kill


class PauseRecorded(Aborted):
    """The message is paused: it may start no step and not end as DONE. Suspend it."""
