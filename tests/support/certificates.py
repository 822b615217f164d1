"""Certificates for tests, made with the `openssl` command."""

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority and one certificate of it, for localhost and 127.0.0.1."""

    ca: Path
    cert: Path
    key: Path

    def install(self, into: Path) -> "Authority":
        """Copies of the files under names that stay, each replaced in one step as a rotation does."""
        into.mkdir(exist_ok=True)
        installed = Authority(into / "ca.pem", into / "cert.pem", into / "key.pem")
        for source, target in ((self.ca, installed.ca), (self.cert, installed.cert), (self.key, installed.key)):
            fresh = target.with_suffix(".new")
            shutil.copyfile(source, fresh)
            fresh.replace(target)
        return installed


def authority(folder: Path) -> Authority:
    """A new one in an empty folder. Raises RuntimeError without `openssl`."""
    if shutil.which("openssl") is None:
        raise RuntimeError("the TLS tests make certificates with the openssl command: install openssl")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl(folder, "req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=ca")
    openssl(folder, "req", *new_key, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=troupe")
    signing = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile", "names"]
    openssl(folder, "x509", "-req", "-in", "request.pem", *signing, "-out", "cert.pem")
    return Authority(folder / "ca.pem", folder / "cert.pem", folder / "key.pem")


def openssl(folder: Path, *arguments: str) -> None:
    """Run the command in a folder."""
    subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)
