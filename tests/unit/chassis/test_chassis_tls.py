from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.certificates import Authority, openssl

from troupe.chassis import tls
from troupe.chassis.errors import InvalidArgument
from troupe.chassis.rpc import serving
from troupe.chassis.service import ServiceSettings
from troupe.chassis.tls import Certificates, ClientTls

Authorities = tuple[Authority, Authority]


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "[::1]:0", "localhost:0"])
def test_loopback_needs_nothing_and_says_nothing(listen: str) -> None:
    with capture_logs() as lines:
        assert tls.guarding(ServiceSettings(), listen) is None
    assert lines == []


@pytest.mark.parametrize("listen", ["0.0.0.0:0", "[::]:0", "10.1.2.3:7070", "worker-0:7070"])
def test_other_addresses_need_tls_or_a_word(listen: str) -> None:
    with pytest.raises(InvalidArgument, match="--tls-cert and --tls-key, or say --insecure") as caught:
        tls.guarding(ServiceSettings(), listen)
    assert caught.value.reason == "TLS_REQUIRED"


def test_insecure_is_said_in_one_line() -> None:
    with capture_logs() as lines:
        assert tls.guarding(ServiceSettings(insecure=True), "0.0.0.0:7070") is None
    assert [(line["log_level"], line["listen"]) for line in lines] == [("warning", "0.0.0.0:7070")]


async def test_a_server_asks_the_rule() -> None:
    with pytest.raises(InvalidArgument, match="can be reached from other machines"):
        async with serving(ServiceSettings(listen="0.0.0.0:0"), lambda _: []):
            pytest.fail("serves in the clear")


def test_files_are_checked(authorities: Authorities, tmp_path: Path) -> None:
    ours, theirs = authorities
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("not PEM")
    encrypted = tmp_path / "encrypted.pem"
    openssl(tmp_path, "ec", "-in", str(ours.key), "-aes128", "-passout", "pass:sesame", "-out", str(encrypted))
    for files, why in (
        (ClientTls(cert=tmp_path / "none.pem", key=ours.key), f"cannot read {tmp_path}/none.pem"),
        (ClientTls(cert=ours.cert, key=theirs.key), "KEY_VALUES_MISMATCH"),
        (ClientTls(cert=garbage, key=ours.key), str(garbage)),
        (ClientTls(cert=ours.cert, key=encrypted), "the key unencrypted"),
        (ClientTls(ca=garbage), str(garbage)),
    ):
        with pytest.raises(InvalidArgument) as caught:
            Certificates(files)
        assert caught.value.reason == "BAD_TLS"
        assert why in str(caught.value)
        assert "\n" not in str(caught.value)


def test_unchanged_files_are_not_read_again(authorities: Authorities, tmp_path: Path) -> None:
    before, after = authorities
    installed = before.install(tmp_path)
    certificates = Certificates(ClientTls(installed.ca, installed.cert, installed.key))
    assert not certificates.refresh()
    after.install(tmp_path)
    assert certificates.refresh()
    assert certificates.pem.cert == after.cert.read_bytes()
    assert not certificates.refresh()


def test_files_that_vanish_leave_what_they_held(authorities: Authorities, tmp_path: Path) -> None:
    installed = authorities[0].install(tmp_path)
    certificates = Certificates(ClientTls(installed.ca, installed.cert, installed.key))
    installed.cert.unlink()
    with capture_logs() as lines:
        assert not certificates.refresh()
    assert certificates.pem.cert == authorities[0].cert.read_bytes()
    assert [line["event"] for line in lines] == ["changed certificates not taken"]
