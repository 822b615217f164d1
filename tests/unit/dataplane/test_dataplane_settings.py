"""What a worker is told of its control planes and says of itself."""

from pathlib import Path
from typing import Any

import pytest

from troupe.chassis.errors import InvalidArgument
from troupe.dataplane.settings import DataPlaneSettings


@pytest.mark.parametrize("given", ["a:1,b:2", ["a:1", "b:2"], ["a:1,b:2"], " a:1 , b:2, a:1"])
def test_several_control_planes(given: Any) -> None:
    assert DataPlaneSettings.load({"server": given}).server == ["a:1", "b:2"]


def test_the_environment_and_a_file_name_them_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "settings.toml").write_text('[dataplane]\nserver = ["c:3"]\nlabel = ["zone=c"]\n')
    from_file = DataPlaneSettings.load({}, str(tmp_path / "settings.toml"))
    assert (from_file.server, from_file.labels) == (["c:3"], {"zone": "c"})
    monkeypatch.setenv("TROUPE_SERVER", "a:1,b:2")
    monkeypatch.setenv("TROUPE_LABEL", "zone=a,troupe.dev/weight=2.5")
    settings = DataPlaneSettings.load({})
    assert settings.server == ["a:1", "b:2"]
    assert settings.labels == {"zone": "a", "troupe.dev/weight": "2.5"}


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"server": "nowhere"}, "host:port"),
        ({"server": ","}, "names no address"),
        ({"label": ["troupe.dev/weight=0"]}, "from 0.01 to 1000"),
        ({"label": ["troupe.dev/weight=nan"]}, "from 0.01 to 1000"),
        ({"label": ["=x"]}, "NAME=VALUE"),
        ({"label": ["x"]}, "NAME=VALUE"),
        ({"label": ["x=" + "y" * 64]}, "NAME=VALUE"),
        ({"label": [f"n{number}=x" for number in range(33)]}, "at most 32"),
        ({"worker_id": "Worker_0"}, "a-z, 0-9"),
    ],
)
def test_what_the_control_plane_would_refuse_is_refused_at_the_start(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        DataPlaneSettings.load(flags)
