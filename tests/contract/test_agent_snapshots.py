"""A long conversation on real stores: a snapshot stands for its first turns, and nothing of it is forgotten."""

from pathlib import Path

from troupe.broker.addressing import SessionKey
from troupe.dataplane.behaviours.agent import SNAPSHOT_EVERY
from troupe.dataplane.runtime import Runtime
from troupe.dataplane.state.session import Loaded
from troupe.llm_sim.process import running
from troupe.llm_sim.settings import LlmSimSettings

EXAMPLE = Path(__file__).parents[2] / "examples/first-fleet"
KEY = SessionKey("default", "default", "clerk", "s")


async def loaded(runtime: Runtime) -> Loaded:
    return await runtime._plane.host.world.store.load(KEY)


async def test_no_more_than_fifty_deltas_are_loaded_and_the_whole_conversation_is_shown(tmp_path: Path) -> None:
    settings = LlmSimSettings(listen="127.0.0.1:0", ttft="constant:0.001", per_token="constant:0.0001")
    async with running(settings) as model:
        fleet = Runtime(llm=model.url, model="sim", data=tmp_path, shards=4)
        async with fleet as runtime:
            await runtime.apply(EXAMPLE)
            for turn in range(SNAPSHOT_EVERY + 2):
                status = await runtime.send("clerk", "s", f"Say {turn}.", wait=20)
                assert status.result.text
            before = await loaded(runtime)
            assert (bool(before.snapshot), len(before.history)) == (True, 2)
        async with Runtime(llm=model.url, model="sim", data=tmp_path, shards=4) as runtime:
            status = await runtime.send("clerk", "s", "What is 6 * 7?", wait=20)
            assert "42" in status.result.text
            assert status.usage.prompt_tokens > 50 * SNAPSHOT_EVERY / 10, "the model sees the turns of the snapshot"
            shown = (await runtime.session("clerk", "s", history=1000)).history
    said = [entry.text for entry in shown if entry.role == "user"]
    assert said == [*(f"Say {turn}." for turn in range(SNAPSHOT_EVERY + 2)), "What is 6 * 7?"]
