"""`troupe dlq` as somebody uses it whose model broke."""

import json
import re
import subprocess
import time
import urllib.request
from pathlib import Path

from support import shell
from support.up import FIRST_FLEET, Up, up

SETTINGS = {
    "TROUPE_TTFT": "constant:0.01",
    "TROUPE_PER_TOKEN": "constant:0.002",
    "TROUPE_METRICS_LISTEN": "",
    "TROUPE_OTLP_ENDPOINT": "http://127.0.0.1:1",
}
"""Spans are recorded, and nobody takes them."""


class Terminal:
    """The one beside a fleet."""

    def __init__(self, fleet: Up) -> None:
        self._fleet = fleet
        self._data = {"TROUPE_DATA": str(fleet.data)}

    def troupe(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        return shell.troupe(self._fleet.directory, *arguments, more=self._data)

    def fate(self, message: str, wanted: str, within: float = 20.0) -> str:
        """What `troupe message show` says, once it speaks of that fate, or at the end of patience."""
        deadline = time.monotonic() + within
        while True:
            said = self.troupe("message", "show", message).stdout
            if said.startswith(f"{message} {wanted}") or time.monotonic() > deadline:
                return said
            time.sleep(0.1)


def order(model: str, fault: dict[str, object]) -> None:
    """Have the simulator fail."""
    request = urllib.request.Request(
        f"{model.removesuffix('/v1')}/sim/faults", json.dumps(fault).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 200


async def test_a_message_that_the_model_failed_is_found_and_redriven(tmp_path: Path) -> None:
    """Given a model that fails as often as a message is tried, when it works again, then the dead letter says why the
    message died, and redriving brings it to its end."""
    async with up(tmp_path, SETTINGS, FIRST_FLEET) as fleet:
        troupe = Terminal(fleet).troupe
        assert troupe("dlq", "list").stdout == "pool agents has no dead letters: no message was given up\n"
        model = re.search(r"simulator at (http\S+)", fleet.log.read_text())
        assert model
        order(model[1], {"kind": "500", "count": 8})
        for name in ("m1", "m2"):
            sent = troupe("send", f"clerk/{name}", "What is 6 * 7?", "--message-id", name, "--wait")
            assert (sent.returncode, f"clerk/{name}/{name} DEAD" in sent.stdout) == (1, True), sent.stderr

        table = troupe("dlq", "list", "--reason", "MODEL_ERROR").stdout.splitlines()
        rows = [line.split()[1:4] for line in table[1:]]
        assert rows == [[f"clerk/{name}", "MODEL_ERROR", "4"] for name in ("m1", "m2")]
        (listed,) = json.loads(troupe("dlq", "list", "-s", "clerk/m1", "-o", "json").stdout)
        death, revision = listed["death"], json.loads(troupe("get", "revisions", "1", "-o", "json").stdout)
        assert (listed["messageId"], death["attempts"], death["workerId"]) == ("m1", 4, "worker-0")
        assert death["revisionId"] == revision["revisionId"]
        assert death["firstFailed"] < death["lastFailed"]
        assert re.fullmatch(r"[0-9a-f]{32}", death["traceId"])
        shown = troupe("dlq", "show", listed["letterId"]).stdout
        assert all(said in shown for said in ("clerk/m1/m1", death["traceId"], death["error"], "\n\nWhat is 6 * 7?\n"))

        dry = troupe("dlq", "redrive", "--dry-run")
        assert dry.stdout.endswith("dry run, nothing was changed: 2 redriven\n")
        purged = troupe("dlq", "purge", "-s", "clerk/m2")
        assert (purged.returncode, purged.stdout.splitlines()[-1]) == (0, "1 purged")
        redriven = troupe("dlq", "redrive")
        assert (redriven.returncode, redriven.stdout.splitlines()[-1]) == (0, "1 redriven")
        assert troupe("dlq", "list").stdout.startswith("pool agents has no dead letters")
        done = Terminal(fleet).fate("clerk/m1/m1", "DONE")
        assert done.startswith("clerk/m1/m1 DONE"), done
        assert "42" in done
        assert troupe("message", "show", "clerk/m2/m2").stdout.startswith("clerk/m2/m2 DEAD")
