"""A revision packed for its way to workers."""

from dataclasses import dataclass

from troupe.v1.data_plane_pb2 import ApplyRequest
from troupe.v1.resource_pb2 import ConfigSpec


@dataclass(frozen=True, slots=True)
class Packed:
    """One revision, serialised once: its bytes are the same object for every worker that it goes to, however many."""

    revision_id: str
    term: int
    generation: int
    content_hash: str
    request: bytes
    """An ApplyRequest."""

    @staticmethod
    def of(config: ConfigSpec) -> "Packed":
        """What brings `config`."""
        return Packed(
            config.revision_id,
            config.term,
            config.generation,
            config.content_hash,
            ApplyRequest(config=config).SerializeToString(),
        )

    @property
    def place(self) -> tuple[int, int]:
        """Its place in the order of revisions."""
        return self.term, self.generation

    def config(self) -> ConfigSpec:
        """What was packed."""
        return ApplyRequest.FromString(self.request).config
