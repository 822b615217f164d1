"""Where the fleet is: what was named, then what `troupe up` wrote, then the defaults."""

import json
from pathlib import Path

import pytest

from troupe.chassis.errors import FailedPrecondition
from troupe.cli import endpoints
from troupe.cli.endpoints import Endpoints

WRITTEN = Endpoints("127.0.0.1:9001", "127.0.0.1:9000")


def test_what_is_named_wins_over_what_is_written(tmp_path: Path) -> None:
    endpoints.write(tmp_path, WRITTEN)
    assert endpoints.resolve("named:1", None, tmp_path) == Endpoints("named:1", "127.0.0.1:9000")
    assert endpoints.resolve(None, "named:2", tmp_path) == Endpoints("127.0.0.1:9001", "named:2")
    assert endpoints.resolve(None, None, tmp_path) == WRITTEN


def test_without_either_the_defaults_hold(tmp_path: Path) -> None:
    assert endpoints.resolve(None, None, tmp_path / "nowhere") == Endpoints("127.0.0.1:7071", "127.0.0.1:7070")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"server": "a:1"}', "\x00"])
def test_a_file_that_says_nothing_usable_is_passed_over(tmp_path: Path, content: str) -> None:
    (tmp_path / endpoints.FILE).write_text(content)
    assert endpoints.resolve(None, None, tmp_path) == Endpoints()


def test_the_file_is_replaced_whole_and_taken_away(tmp_path: Path) -> None:
    endpoints.write(tmp_path, Endpoints())
    endpoints.write(tmp_path, WRITTEN)
    assert json.loads((tmp_path / endpoints.FILE).read_text()) == {
        "server": "127.0.0.1:9001",
        "gateway": "127.0.0.1:9000",
    }
    endpoints.remove(tmp_path)
    endpoints.remove(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match=r"cannot write .*endpoints\.json"):
        endpoints.write(tmp_path / "missing", WRITTEN)


def test_the_data_directory_is_the_named_one_then_that_of_xdg_then_that_of_home(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    assert endpoints.data_directory({"TROUPE_DATA": "/srv/t", "XDG_DATA_HOME": "/x"}) == Path("/srv/t")
    assert endpoints.data_directory({"XDG_DATA_HOME": "/x"}) == Path("/x/troupe")
    assert endpoints.data_directory({}) == Path("/home/ada/.local/share/troupe")
