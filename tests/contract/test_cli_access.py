"""`troupe certs`, `troupe token`, and what client commands show to servers."""

import ssl
import stat
import subprocess
import tomllib
from pathlib import Path

import pytest
from support.canned_fleet import canned_fleet
from support.fleets import fleet

from troupe.chassis.access.static_tokens import TokenFile, hashed
from troupe.chassis.tls import Certificates, ClientTls
from troupe.cli.main import main

NOW = 1_800_000_000.0


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    said = capsys.readouterr()
    return code, said.out, said.err


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_certificates_for_a_fleet_are_made_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    directory = tmp_path / "certs"
    made = [
        "certs",
        "dev",
        str(directory),
        "--worker",
        "a",
        "--worker",
        "b",
        "--host",
        "fleet.test",
        "--host",
        "10.0.0.1",
    ]
    code, out, err = run(capsys, *made)
    assert (code, len(err.splitlines())) == (0, 1)
    assert err.startswith("not for production")
    names = ("controlplane", "a", "b", "client")
    assert {Path(line) for line in out.splitlines()} == set(directory.iterdir())
    assert {path.name for path in directory.iterdir()} == {
        "ca.pem",
        *(f"{name}.{end}" for name in names for end in ("pem", "key")),
    }
    for name in names:
        assert mode(directory / f"{name}.key") == 0o600
        Certificates(ClientTls(directory / "ca.pem", directory / f"{name}.pem", directory / f"{name}.key"))
        subprocess.run(["openssl", "verify", "-CAfile", "ca.pem", f"{name}.pem"], cwd=directory, check=True)
    capsys.readouterr()
    before = {path: path.read_bytes() for path in directory.iterdir()}
    code, out, err = run(capsys, *made)
    assert (code, out) == (1, "")
    assert "is there already" in err
    assert {path: path.read_bytes() for path in directory.iterdir()} == before


def test_a_certificate_says_who_and_where(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(capsys, "certs", "dev", str(tmp_path / "c"), "--host", "fleet.test", "--host", "10.0.0.1")[0] == 0
    names = {}
    for name in ("controlplane", "worker-0", "client"):
        read = getattr(ssl, "_ssl")._test_decode_cert  # noqa: B009  # the one way that the library has
        names[name] = set(read(str(tmp_path / "c" / f"{name}.pem")).get("subjectAltName", ()))
    where = {("DNS", "localhost"), ("DNS", "fleet.test"), ("IP Address", "127.0.0.1"), ("IP Address", "10.0.0.1")}
    assert names["worker-0"] >= where | {("URI", "spiffe://dev.troupe/troupe/worker/worker-0")}
    assert names["controlplane"] >= where | {("URI", "spiffe://dev.troupe/troupe/controlplane")}
    assert names["client"] == set()


@pytest.mark.parametrize("wrong", [["--worker", "A"], ["--worker", "client"], ["--host", "é"], ["--worker", "../x"]])
def test_names_that_cannot_be_are_misuse_and_nothing_is_written(
    wrong: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    code, _, err = run(capsys, "certs", "dev", str(tmp_path / "c"), *wrong)
    assert (code, len(err.splitlines())) == (2, 1)
    assert not list(tmp_path.rglob("*.key"))


def test_a_token_is_printed_once_and_kept_as_a_hash(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "tokens.toml"
    new = ["token", "new", "--tokens", str(path)]
    code, first, err = run(capsys, *new, "ci", "--role", "admin")
    assert (code, len(first.splitlines()), len(err.splitlines())) == (0, 1, 1)
    rest = ["--tenant", "acme", "--agent-label", "team=shop", "--agent-label", 'note="é"', "--days", "3"]
    code, second, _ = run(capsys, *new, 'Ann "é" 🙂', "--role", "client", "--role", "operator", *rest)
    assert code == 0
    assert mode(path) == 0o600
    text = path.read_text()
    assert first.strip() not in text
    assert hashed(first.strip()) in text
    tokens = TokenFile(path)
    shop = tokens.caller(second.strip(), 0.0)
    assert tokens.caller(first.strip(), NOW) is not None
    assert shop is not None
    assert (shop.name, shop.tenant, shop.agents) == ('Ann "é" 🙂', "acme", {"team": "shop", "note": '"é"'})
    assert "expires" in tomllib.loads(text)["token"][1]


@pytest.mark.parametrize(
    "wrong", [["--role", "boss"], ["--role", "admin", "--tenant", "A/B"], ["--role", "client", "--agent-label", "team"]]
)
def test_a_token_that_no_service_would_read_is_not_added(
    wrong: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "tokens.toml"
    run(capsys, "token", "new", "ci", "--role", "admin", "--tokens", str(path))
    before = path.read_text()
    code, out, err = run(capsys, "token", "new", "x", "--tokens", str(path), *wrong)
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert str(path) in err or "NAME=VALUE" in err
    assert path.read_text() == before
    assert [one.name for one in tmp_path.iterdir()] == ["tokens.toml"]


def test_commands_send_the_token_that_they_are_given(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    held = tmp_path / "token"
    held.write_text("from-file\n")
    with canned_fleet(capsys, monkeypatch, tmp_path) as canned:
        canned.control_plane.commit(*fleet())
        for given, expected in (([], None), (["--token", "typed"], "typed"), (["--token", f"@{held}"], "from-file")):
            assert canned.troupe("get", "agents", *given).code == 0
            assert canned.control_plane.tokens[-1] == (expected and f"Bearer {expected}")
        monkeypatch.setenv("TROUPE_TOKEN", "of-the-shell")
        assert canned.troupe("get", "agents").code == 0
        assert canned.control_plane.tokens[-1] == "Bearer of-the-shell"
        missing = canned.troupe("get", "agents", "--token", f"@{tmp_path}/none")
        assert (missing.code, len(missing.err.splitlines())) == (2, 1)


def test_a_token_does_not_leave_the_machine_in_the_clear(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with canned_fleet(capsys, monkeypatch, tmp_path) as canned:
        run = canned.troupe("get", "agents", "--server", "10.255.255.1:7071", "--token", "typed-token")
        assert (run.code, len(run.err.splitlines())) == (2, 1)
        assert "TROUPE_TLS_CA" in run.err
        assert "typed-token" not in run.err + run.out
