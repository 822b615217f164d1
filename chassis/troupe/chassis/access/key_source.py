"""An issuer's keys, from a file or a URL, read again when they may have changed.

A token that names a key which is not known asks for the keys anew, and anybody can make one up: so the keys are
fetched once for all who wait, and not again within `BETWEEN`.
"""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Final

import structlog

from troupe.chassis.access.jwt_tokens import Keys, keys_of
from troupe.chassis.clock import Clock
from troupe.chassis.errors import Unavailable

log = structlog.get_logger()

FRESH: Final = 600.0
"""Seconds after which known keys are fetched again: those that the issuer withdrew must go."""
BETWEEN: Final = 10.0
"""Seconds between two fetches, whatever happens."""
FETCH: Final = 5.0
"""Seconds that a fetch gets."""
MAX_BYTES: Final = 1024 * 1024


def due(known: bool, since_read: float, since_try: float) -> bool:
    """Whether to fetch now: the key asked for is not `known` or the keys are old, and the last try, in seconds before
    now, is not too near. Pure."""
    return since_try >= BETWEEN and (not known or since_read >= FRESH)


class KeySource:
    """The keys at a path or an http(s) URL."""

    def __init__(self, place: str, clock: Clock) -> None:
        self._place, self._clock = place, clock
        self._keys: Keys = {}
        self._read = self._tried = float("-inf")
        self._fetching = asyncio.Lock()

    async def key(self, key_id: str) -> object | None:
        """The key of that id, None where the issuer has none. Raises Unavailable KEYS_UNREACHABLE where no keys could
        be got so far; keys that are known outlive an issuer that does not answer."""
        if self._due(key_id) or (self._fetching.locked() and self._found(key_id) is None):
            async with self._fetching:
                if self._due(key_id):
                    await self._fetch()
        if not self._keys:
            raise Unavailable(
                "KEYS_UNREACHABLE", f"the keys of tokens at {self._place} cannot be read now; try again", retry_after=10
            )
        return self._found(key_id)

    def _found(self, key_id: str) -> object | None:
        if key_id or len(self._keys) != 1:
            return self._keys.get(key_id)
        return next(iter(self._keys.values()))

    def _due(self, key_id: str) -> bool:
        now = self._clock.monotonic()
        return due(self._found(key_id) is not None, now - self._read, now - self._tried)

    async def _fetch(self) -> None:
        self._tried = self._clock.monotonic()
        try:
            async with asyncio.timeout(FETCH):
                document = await asyncio.to_thread(_document, self._place)
            self._keys = keys_of(document)
        except (OSError, ValueError, TimeoutError) as error:
            log.warning("keys of tokens not read", place=self._place, error=str(error) or type(error).__name__)
        else:
            self._read = self._tried
            log.info("keys of tokens read", place=self._place, keys=len(self._keys))


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: object) -> None:
        """Keys come from the place that was named and nowhere else."""


def _document(place: str) -> bytes:
    if "://" not in place:
        with Path(place).open("rb") as file:
            return _bounded(file.read(MAX_BYTES + 1))
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect())
    try:
        with opener.open(place, timeout=FETCH) as answer:
            return _bounded(answer.read(MAX_BYTES + 1))
    except urllib.error.HTTPError as error:
        error.close()  # it holds the connection
        raise ValueError(f"it answers {error.code} {error.reason}") from None


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise ValueError(f"it is larger than {MAX_BYTES} bytes")
    return content
