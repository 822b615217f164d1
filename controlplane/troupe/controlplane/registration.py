"""What a worker says of itself when it registers, checked."""

import math
from collections.abc import Iterator
from typing import Final

from troupe.chassis.address import Address
from troupe.chassis.errors import InvalidArgument, Violation
from troupe.controlplane.placement import Member
from troupe.controlplane.weights import asked_weight
from troupe.resources.validation import MAX_LABEL_BYTES, MAX_LABELS, NAME
from troupe.v1.control_plane_pb2 import RegisterRequest

MAX_INSTANCE_BYTES: Final = 128
MAX_ADDRESS: Final = 300


def registration(request: RegisterRequest) -> tuple[Member, float | None]:
    """The process that registers, and the weight that its labels ask for, if any. Raises InvalidArgument with one
    violation for each wrong field."""
    violations = list(_wrong(request))
    if violations:
        first = violations[0]
        raise InvalidArgument("INVALID_WORKER", f"{first.field} {first.description}", violations=violations)
    return Member(request.worker_id, request.instance_id, request.address), asked_weight(request.labels)


def _wrong(request: RegisterRequest) -> Iterator[Violation]:
    if not NAME.fullmatch(request.worker_id):
        yield Violation("worker_id", "must be 1 to 63 of a-z, 0-9 and -, beginning and ending with a letter or digit")
    instance = request.instance_id
    if not instance or len(instance.encode()) > MAX_INSTANCE_BYTES or not instance.isprintable():
        yield Violation("instance_id", f"must be printable text of 1 to {MAX_INSTANCE_BYTES} bytes")
    try:
        reachable = len(request.address) <= MAX_ADDRESS and Address.parse(request.address).port > 0
    except ValueError:
        reachable = False
    if not reachable or not request.address.isprintable():
        yield Violation("address", "must be host:port where the control plane reaches the worker")
    if not (math.isfinite(request.capacity.cpus) and request.capacity.cpus >= 0):
        yield Violation("capacity.cpus", "must be 0 or more processors")
    if len(request.labels) > MAX_LABELS:
        yield Violation("labels", f"has {len(request.labels)} entries, at most {MAX_LABELS} are taken")
    elif any(
        not name or max(len(name.encode()), len(value.encode())) > MAX_LABEL_BYTES
        for name, value in request.labels.items()
    ):
        yield Violation("labels", f"must have keys of 1 to {MAX_LABEL_BYTES} bytes and values of no more")
