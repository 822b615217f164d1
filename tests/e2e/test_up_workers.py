"""`troupe up --workers 2` in one terminal, the other worker in a second, users in a third; RabbitMQ and Redis below."""

import json
import shlex
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import rabbitmq, redis_server
from support.shell import command, troupe
from support.terminals import EXAMPLE, FAST, SLOW, Terminal, terminal, up

from troupe.broker.addressing import SessionKey

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def broker() -> Iterator[str]:
    with rabbitmq.running() as node:
        yield node.url


@pytest.fixture
def state(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "redis").mkdir()
    with redis_server.running(tmp_path / "redis") as server:
        yield server.url()


def second(fleet: Terminal, broker: str) -> list[str]:
    """What `troupe up` says starts the other worker, with the password that it does not show."""
    (line,) = [line.strip() for line in fleet.text.splitlines() if "troupe dataplane" in line]
    assert "guest:guest" not in line
    words = [broker if word.startswith("amqp://") else word for word in shlex.split(line)]
    return command("troupe.cli.main", *words[1:])


def shards(directory: Path) -> dict[str, set[int]]:
    """What each worker holds."""
    status = json.loads(troupe(directory, "status", "-o", "json").stdout)
    return {
        one["workerId"]: {shard.get("shard", 0) for shard in one["report"].get("shards", [])}
        for one in status["workers"]
    }


def session_of(worker: str, held: dict[str, set[int]]) -> str:
    """A session of the clerk that this worker owns."""
    names = (f"s{number}" for number in range(1000))
    return next(one for one in names if SessionKey("default", "default", "clerk", one).shard(128) in held[worker])


def test_several_workers_share_a_fleet(tmp_path: Path, broker: str, state: str) -> None:
    with up(tmp_path, str(EXAMPLE), "--workers", "2", "--broker", broker, "--state", state) as fleet:
        # Given one of two workers, nothing is placed
        fleet.until(lambda text: "1 of 2 workers are there: worker-0" in text)
        served = json.loads((tmp_path / ".local/share/troupe/endpoints.json").read_text())
        assert shards(tmp_path) == {"worker-0": set()}
        early = troupe(tmp_path, "send", "clerk/s1", "hello")
        assert early.returncode == 1
        assert len(early.stderr.splitlines()) == 1

        # When the second comes
        with terminal(tmp_path, "worker-1", second(fleet, broker), FAST | {"TROUPE_LOG_FORMAT": "json"}) as other:
            fleet.until(lambda text: "the shards are placed" in text)
            # Each says what it holds, a moment after it was told
            until, held = time.monotonic() + 20, shards(tmp_path)
            while any(len(those) != 64 for those in held.values()) and time.monotonic() < until:
                held = shards(tmp_path)
            assert {name: len(those) for name, those in held.items()} == {"worker-0": 64, "worker-1": 64}
            serving = next(json.loads(line) for line in other.text.splitlines() if '"event": "serving"' in line)

            # Then either may be called for any session
            for gateway in (served["gateway"], serving["listen"]):
                for worker in held:
                    asked = ("chat", "clerk", "-s", session_of(worker, held), "-m", "What is 6 * 7?")
                    answer = troupe(tmp_path, *asked, more={"TROUPE_GATEWAY": gateway})
                    assert answer.returncode == 0, answer.stderr
                    assert "42" in answer.stdout
                    assert "→ calculator(expression=" in answer.stdout
            doctor = troupe(tmp_path, "doctor", more={"TROUPE_BROKER": broker, "TROUPE_STATE": state})
            assert doctor.returncode == 0, doctor.stdout
            assert "RabbitMQ 3." in doctor.stdout
            assert "Redis at 127.0.0.1:" in doctor.stdout
            assert {line.split()[0] for line in doctor.stdout.splitlines()[1:]} == {"ok"}
            assert other.ended(signal.SIGTERM, 20) == 0


def test_a_worker_that_is_killed_in_the_middle_of_an_answer(tmp_path: Path, broker: str, state: str) -> None:
    """Given an answer that streams from the second worker through the first, when the second is killed and another
    process takes its place, then the first one's client sees the attempt voided, and the answer to its end."""
    named = ("--broker", broker, "--state", state)
    with up(tmp_path, str(EXAMPLE), "--workers", "2", *named, variables=SLOW) as fleet:
        start = second(fleet, broker)
        with terminal(tmp_path, "worker-1", start, FAST) as other:
            fleet.until(lambda text: "the shards are placed" in text)
            session = session_of("worker-1", shards(tmp_path))
            chat = command("troupe.cli.main", "chat", "clerk", "-s", session, "-m", "count to 20")
            with terminal(tmp_path, "chat", chat, {}) as talking:
                talking.until(lambda text: "3" in text)
                other.process.kill()
                other.process.wait()
                with terminal(tmp_path, "again", start, FAST):
                    assert talking.process.wait(90) == 0, talking.text
                assert "is void" in talking.text
                assert "wall" in talking.text
