"""`troupe up` in one terminal, everything else in another."""

import json
import signal
from pathlib import Path

import pytest
from support import ports
from support.shell import command, troupe
from support.terminals import EXAMPLE, FAST, SLOW, terminal, up


def data(directory: Path) -> Path:
    return directory / ".local/share/troupe"


def test_a_fleet_serves_every_command_of_another_terminal(tmp_path: Path) -> None:
    with up(tmp_path, str(EXAMPLE)):
        status = troupe(tmp_path, "status")
        assert "revision 1 COMPLETE · 3 resources · 1 of 1 workers healthy" in status.stdout

        answer = troupe(tmp_path, "chat", "clerk", "-s", "s1", "-m", "What is 123456789 * 987654321?")
        assert answer.returncode == 0, answer.stderr
        assert "→ calculator(expression=" in answer.stdout
        assert "← calculator 121932631112635269" in answer.stdout
        assert [line.split()[0] for line in answer.stdout.splitlines()[-3:-1]] == ["residual", "wall"]

        again = troupe(tmp_path, "chat", "clerk", "-s", "s1", stdin="What is 6 * 7?\nWhat is 8 * 8?\n")
        assert again.returncode == 0, again.stderr
        assert "42" in again.stdout
        assert "64" in again.stdout

        sent = troupe(tmp_path, "send", "clerk/s1", "What is 9 * 9?", "--message-id", "m1", "--wait", "-o", "json")
        assert sent.returncode == 0, sent.stderr
        assert json.loads(sent.stdout)["status"]["fate"] == "FATE_DONE"
        shown = troupe(tmp_path, "message", "show", "clerk/s1/m1")
        assert shown.stdout.startswith("clerk/s1/m1 DONE")
        late = troupe(tmp_path, "turns", "cancel", "clerk/s1/m1")
        assert (late.returncode, "TOO_LATE" in late.stdout) == (1, True)

        session = json.loads(troupe(tmp_path, "session", "show", "clerk/s1", "-o", "json").stdout)
        assert session["session"]["turns"] == "4"
        listed = json.loads(troupe(tmp_path, "get", "sessions", "-o", "json").stdout)
        assert [one["session"]["session"] for one in listed] == ["s1"]

        assert troupe(tmp_path, "apply", "-f", str(EXAMPLE)).stdout == "unchanged\n"
        changed = troupe(tmp_path, "get", "agents", "clerk", "-o", "yaml").stdout.replace("maxSteps: 8", "maxSteps: 9")
        applied = troupe(tmp_path, "apply", "-f", "-", "--wait", stdin=changed)
        assert applied.returncode == 0, applied.stderr
        assert "spec.maxSteps: 8 -> 9" in applied.stdout
        assert "worker-0: APPLIED" in applied.stdout

        doctor = troupe(tmp_path, "doctor")
        assert doctor.returncode == 0, doctor.stdout

        assert troupe(tmp_path, "session", "delete", "clerk/s1").returncode == 0
        assert troupe(tmp_path, "delete", "agent", "clerk").returncode == 0
        assert json.loads(troupe(tmp_path, "get", "agents", "-o", "json").stdout) == []


def test_ctrl_c_stops_it_with_one_line(tmp_path: Path) -> None:
    with up(tmp_path) as fleet:
        served = json.loads((data(tmp_path) / "endpoints.json").read_text())
        assert fleet.ended() == 0
        after = fleet.text.partition("Ctrl-C stops it.\n")[2].splitlines()
        assert after[-1] == f"stopped; everything is kept in {data(tmp_path)}"
        assert "Traceback" not in fleet.text
        assert not (data(tmp_path) / "endpoints.json").exists()
    gone = troupe(tmp_path, "get", "agents", "--server", served["server"])
    assert (gone.returncode, len(gone.stderr.splitlines())) == (1, 1)


def test_a_second_start_on_the_same_data_says_by_whom_it_is_used(tmp_path: Path) -> None:
    with up(tmp_path) as fleet:
        second = troupe(tmp_path, "up", more=FAST)
        assert second.returncode == 1
        assert second.stderr == (
            f"error: {data(tmp_path)} is in use by process {fleet.process.pid}; stop it, "
            "or name another directory with --data\n"
        )
        assert troupe(tmp_path, "status").returncode == 0, "the first one serves on"


def test_busy_default_ports_move_on_and_one_that_was_asked_for_does_not(tmp_path: Path) -> None:
    with ports.taken():
        with up(tmp_path, variables=FAST | {"TROUPE_CONFIG": ""}) as fleet:
            found = json.loads((data(tmp_path) / "endpoints.json").read_text())
            assert not {"127.0.0.1:7070", "127.0.0.1:7071"} & set(found.values())
            assert troupe(tmp_path, "status").returncode == 0
            assert fleet.ended() == 0
        refused = troupe(tmp_path, "up", "--listen", "127.0.0.1:7071", more=FAST)
    assert refused.returncode == 1
    assert "port 7071 is in use" in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


def test_wrong_manifests_stop_it_before_it_starts(tmp_path: Path) -> None:
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "clerk.yaml").write_text(
        "apiVersion: troupe.dev/v1\nkind: Agent\nmetadata: {name: clerk}\nspec: {modle: x}\n"
    )
    run = troupe(tmp_path, "up", "manifests", more=FAST)
    assert run.returncode == 2
    assert run.stderr.startswith('error: manifests/clerk.yaml:4: spec.modle: unknown field; did you mean "model"?')
    assert not data(tmp_path).exists()


def test_a_data_directory_that_cannot_be_used_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    run = troupe(tmp_path, "up", "--data", "file/below", more=FAST)
    assert run.returncode == 1
    assert len(run.stderr.splitlines()) == 1
    assert "--data" in run.stderr


def test_a_conversation_outlives_kill_9(tmp_path: Path) -> None:
    """Given an answer that is being streamed, when the fleet is killed and started again, then `troupe chat` goes on
    to its end, and the session with it."""
    listen = ("--listen", f"127.0.0.1:{ports.free()[0]}")
    with up(tmp_path, str(EXAMPLE), *listen, variables=SLOW) as fleet:
        gateway = {"TROUPE_GATEWAY": listen[1]}
        chat = command("troupe.cli.main", "chat", "clerk", "-s", "s1", "-m", "count to 20")
        with terminal(tmp_path, "chat", chat, gateway) as talking:
            talking.until(lambda text: "3" in text)
            fleet.process.kill()
            fleet.process.wait()
            with up(tmp_path, *listen, variables=FAST):
                assert talking.process.wait(30) == 0, talking.text
                assert "wall" in talking.text
                shown = json.loads(troupe(tmp_path, "session", "show", "clerk/s1", "-o", "json").stdout)
                assert shown["session"]["turns"] == "1"
                goes_on = troupe(tmp_path, "chat", "clerk", "-s", "s1", "-m", "What is 6 * 7?")
                assert goes_on.returncode == 0, goes_on.stderr
                assert "42" in goes_on.stdout


def test_ctrl_c_in_chat_cancels_the_turn_and_not_the_session(tmp_path: Path) -> None:
    with up(tmp_path, str(EXAMPLE), variables=SLOW):
        assert troupe(tmp_path, "chat", "clerk", "-s", "s1", "-m", "hello").returncode == 0
        chat = command("troupe.cli.main", "chat", "clerk", "-s", "s1", "-m", "count to 50")
        with terminal(tmp_path, "chat", chat, {}) as talking:
            talking.until(lambda text: "2" in text)
            assert talking.ended() == 1
            assert "cancelled" in talking.text
        shown = json.loads(troupe(tmp_path, "session", "show", "clerk/s1", "-o", "json").stdout)
        assert shown["session"]["state"] == "SESSION_STATE_IDLE"
        assert troupe(tmp_path, "chat", "clerk", "-s", "s1", "-m", "hello again").returncode == 0


@pytest.mark.parametrize("service", ["controlplane", "llm-sim", "dataplane"])
def test_each_service_runs_alone_and_stops_on_a_signal(tmp_path: Path, service: str) -> None:
    arguments = command("troupe.cli.main", service, "--listen", "127.0.0.1:0", "--metrics-listen", "")
    # No worker of a test may find a fleet that happens to run here, and take its worker's place.
    arguments += ["--server", "127.0.0.1:1"] if service == "dataplane" else []
    with terminal(tmp_path, service, arguments, {"TROUPE_LOG_FORMAT": "json"}) as opened:
        opened.until(lambda text: "serv" in text)
        assert opened.ended(signal.SIGTERM) == 0
        assert "Traceback" not in opened.text
