"""Client commands and a control plane that serves under TLS."""

from pathlib import Path

import grpc
import pytest
from support.canned_fleet import canned_fleet
from support.certificates import authority
from support.fleets import fleet


def test_the_environment_says_whom_to_trust(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    certificates = authority(tmp_path)
    pair = (certificates.key.read_bytes(), certificates.cert.read_bytes())
    with canned_fleet(capsys, monkeypatch, tmp_path, grpc.ssl_server_credentials([pair])) as canned:
        canned.control_plane.commit(*fleet())
        in_the_clear = canned.troupe("get", "agents")
        assert (in_the_clear.code, len(in_the_clear.err.splitlines())) == (1, 1)
        monkeypatch.setenv("TROUPE_TLS_CA", str(certificates.ca))
        trusted = canned.troupe("get", "agents")
        assert (trusted.code, trusted.err) == (0, "")
        assert "clerk" in trusted.out


def test_a_file_that_is_none_is_misuse(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with canned_fleet(capsys, monkeypatch, tmp_path) as canned:
        monkeypatch.setenv("TROUPE_TLS_CA", str(tmp_path / "missing.pem"))
        run = canned.troupe("get", "agents")
        assert run.code == 2
        assert "missing.pem" in run.err
