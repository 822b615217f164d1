"""What is counted: by the meter in each contender, from a contender's output, and in a window of time."""

import itertools
import json
import sys
import threading
import tomllib
from collections.abc import Sequence
from types import SimpleNamespace

import meter
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.broker.retries import densest
from bench.contender import PEERS, ContenderFailed, measurement


class TestMeter:
    def test_filling_hands_out_each_message_once_to_all_threads_together(self) -> None:
        filling = meter.Filling(10_000)
        sent: list[int] = []

        def send() -> None:
            count = 0
            while filling.sending():
                count += 1
            sent.append(count)

        threads = [threading.Thread(target=send) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert sum(sent) == 10_000

    def test_consuming_times_what_follows_the_warm_up(self, capsys: pytest.CaptureFixture[str]) -> None:
        consuming = meter.Consuming(100)

        assert [consuming.handled() for _ in range(100)] == [False] * 99 + [True]

        consuming.report()
        said = json.loads(capsys.readouterr().out)
        assert (said["messages"], said["counted"]) == (100, 90)
        assert said["seconds"] > 0

    def test_publishing_counts_all_and_times_what_follows_the_warm_up(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # Given a clock that passes a tenth of a second with each look
        ticks = itertools.count()
        monkeypatch.setattr(meter, "time", SimpleNamespace(perf_counter=lambda: next(ticks) / 10))
        publishing = meter.Publishing(2.0)

        # When one message after another is confirmed until the end, and one that was in flight after it
        count = 1
        while publishing.sending():
            publishing.confirmed()
            count += 1
        publishing.confirmed()

        # Then all are counted, and those between 1.0 and 3.0 s timed: the confirms at 1.0, 1.2 … 2.8 s
        publishing.report()
        said = json.loads(capsys.readouterr().out)
        assert said["messages"] == count
        assert said["counted"] == 9
        assert said["seconds"] == pytest.approx(1.8)

    @pytest.mark.parametrize("measured", [meter.Publishing(0.0), meter.Consuming(1)])
    def test_nothing_measured_is_an_error(self, measured: meter.Publishing | meter.Consuming) -> None:
        with pytest.raises(RuntimeError):
            measured.report()


def _program(text: str) -> list[str]:
    return [sys.executable, "-c", text]


class TestMeasurement:
    def test_the_last_line_is_the_measurement(self) -> None:
        measured = measurement(
            "peer", _program("""print("hello"); print('{"messages": 12, "counted": 10, "seconds": 0.5}')""")
        )

        assert (measured.messages, measured.rate) == (12, 20.0)

    def test_a_contender_that_fails_is_told_with_what_it_said(self) -> None:
        with pytest.raises(ContenderFailed, match=r"peer could not be run \(exit status 3\)(?s:.*)no broker"):
            measurement("peer", _program("""import sys; print("no broker", file=sys.stderr); sys.exit(3)"""))

    @pytest.mark.parametrize("text", ["", "print('ready')", """print('{"messages": 1}')"""])
    def test_a_contender_without_a_measurement_failed(self, text: str) -> None:
        with pytest.raises(ContenderFailed, match="peer printed no measurement"):
            measurement("peer", _program(text))

    def test_a_contender_that_hangs_is_ended_with_its_children(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("bench.contender.TIMEOUT", 1.0)
        # The child has the contender's output open: reading that would not end before the child does.
        text = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"

        with pytest.raises(ContenderFailed, match="ended after 1 s"):
            measurement("peer", _program(text))


@given(st.lists(st.floats(0, 10, allow_nan=False)), st.floats(0.01, 3))
def test_the_densest_window_is_the_best_of_those_that_begin_at_a_time(times: Sequence[float], window: float) -> None:
    counts = [sum(1 for time in times if begin <= time and time - begin < window) for begin in times]

    assert densest(times, window) == max(counts, default=0)


@pytest.mark.parametrize("peer", sorted(path.parent.name for path in PEERS.glob("*/peer.py")))
def test_a_peer_names_exact_versions_and_its_lock_holds_them(peer: str) -> None:
    project = tomllib.loads((PEERS / peer / "pyproject.toml").read_text())["project"]
    locked = {
        package["name"]: package.get("version")
        for package in tomllib.loads((PEERS / peer / "uv.lock").read_text())["package"]
    }

    assert project["name"] == f"peer-{peer}"
    for dependency in project["dependencies"]:
        name, separator, version = dependency.partition("==")
        assert separator, f"{dependency} is not exact"
        assert locked[name.partition("[")[0]] == version
