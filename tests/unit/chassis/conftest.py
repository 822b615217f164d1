"""What the tests of the chassis share."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.certificates import Authority, authority
from support.databases import SCHEMA

from troupe.chassis.sqlite import Database


@pytest.fixture(scope="session")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Authority, Authority]:
    """Two that do not know each other."""
    return authority(tmp_path_factory.mktemp("one")), authority(tmp_path_factory.mktemp("two"))


@pytest.fixture(autouse=True)
def _no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("TROUPE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database.opened(tmp_path / "test.db", SCHEMA) as opened:
        yield opened
