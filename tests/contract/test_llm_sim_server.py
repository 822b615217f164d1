"""The simulator as a server: its metrics, its queue, its faults by order, its port, and its end."""

import asyncio
import contextlib
import io
import itertools
import json
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families
from support import ports
from support.certificates import authority

from troupe.chassis.clock import Clock
from troupe.chassis.errors import FailedPrecondition, InvalidArgument
from troupe.llm_sim.process import running
from troupe.llm_sim.settings import LlmSimSettings

ENOUGH = 40
"""Seconds after which a test that waits has failed."""


class Simulator:
    """A running simulator and a client of it."""

    def __init__(self, url: str, http: aiohttp.ClientSession) -> None:
        self._root = url.removesuffix("/v1")
        self._http = http

    def chat(self, text: str, *, stream: bool = False, **sim: Any) -> Any:
        """The request, to be awaited or entered."""
        body = {"model": "sim", "messages": [{"role": "user", "content": text}], "stream": stream, "sim": sim}
        return self._http.post(f"{self._root}/v1/chat/completions", json=body)

    def call(self, method: str, path: str, **options: Any) -> Any:
        return self._http.request(method, self._root + path, **options)

    async def status(self, text: str, **sim: Any) -> int:
        async with self.chat(text, **sim) as response:
            await response.read()
            return int(response.status)

    async def outcome(self, text: str, **sim: Any) -> int | aiohttp.ClientError:
        """The status, or what went wrong."""
        try:
            return await self.status(text, stream=True, **sim)
        except aiohttp.ClientError as error:
            return error

    async def metric(self, name: str, **labels: str) -> float:
        async with self.call("GET", "/metrics") as response:
            families = text_string_to_metric_families(await response.text())
        found = [
            sample.value
            for family in families
            for sample in family.samples
            if sample.name == f"vllm:{name}" and labels.items() <= sample.labels.items()
        ]
        assert len(found) == 1, f"{name} {labels}: {found}"
        return found[0]

    async def until(self, name: str, value: float, **labels: str) -> None:
        """Wait until a metric has a value."""
        async with asyncio.timeout(ENOUGH):
            while True:
                if await self.metric(name, **labels) == value:
                    return
                await asyncio.sleep(0.005)

    async def until_no_fault_waits(self) -> None:
        async with asyncio.timeout(ENOUGH):
            while True:
                async with self.call("GET", "/sim/faults") as response:
                    if await response.json() == {"faults": []}:
                        return
                await asyncio.sleep(0.005)

    async def until_refused(self) -> None:
        """Wait until there is nobody at the port."""
        host, port = self._root.removeprefix("http://").split(":")
        async with asyncio.timeout(ENOUGH):
            with contextlib.suppress(ConnectionError):
                while True:
                    _, writer = await asyncio.open_connection(host, int(port))
                    writer.close()
                    await asyncio.sleep(0.005)


@asynccontextmanager
async def simulator(clock: Clock | None = None, **settings: Any) -> AsyncIterator[Simulator]:
    quick = {"listen": "127.0.0.1:0", "ttft": "0", "per_token": "0"}
    async with (
        running(LlmSimSettings(**(quick | settings)), clock) as served,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ENOUGH)) as http,
    ):
        yield Simulator(served.url, http)


class LeapingClock:
    """Goes on by itself only when somebody sleeps, and then at once."""

    def __init__(self) -> None:
        self._time = 1000.0

    def now(self) -> float:
        return self._time

    def monotonic(self) -> float:
        return self._time

    async def sleep(self, seconds: float) -> None:
        self._time += max(0.0, seconds)
        await asyncio.sleep(0)


class TestMetrics:
    async def test_times_are_those_of_the_distributions(self) -> None:
        async with simulator(LeapingClock(), ttft="constant:0.25", per_token="constant:0.0625") as sim:
            async with sim.chat("count to 5", stream=True) as response:
                await response.read()

            assert await sim.metric("time_to_first_token_seconds_sum") == pytest.approx(0.25)
            assert await sim.metric("inter_token_latency_seconds_count") == 4
            assert await sim.metric("inter_token_latency_seconds_sum") == pytest.approx(4 * 0.0625)
            assert await sim.metric("request_time_per_output_token_seconds_sum") == pytest.approx(0.0625)
            assert await sim.metric("e2e_request_latency_seconds_sum") == pytest.approx(0.25 + 4 * 0.0625)

    async def test_a_body_takes_as_long_as_its_tokens(self) -> None:
        async with simulator(LeapingClock(), ttft="constant:0.25", per_token="constant:0.0625") as sim:
            await sim.status("count to 5", per_token="constant:1")

            assert await sim.metric("e2e_request_latency_seconds_sum") == pytest.approx(0.25 + 4)

    async def test_an_answer_of_no_tokens_takes_the_time_to_the_first(self) -> None:
        async with simulator(LeapingClock(), ttft="constant:0.25") as sim:
            await sim.status("say 0 words")

            assert await sim.metric("e2e_request_latency_seconds_sum") == pytest.approx(0.25)

    async def test_tokens_and_ends_are_counted(self) -> None:
        async with simulator() as sim:
            await sim.status("count to 5")
            prompt = await sim.metric("prompt_tokens_total")
            await sim.status("count to 5")
            await sim.status("count to 9", fault={"kind": "half", "after": 2})
            await sim.status("count to 9", fault={"kind": "500"})

            assert await sim.metric("generation_tokens_total") == 5 + 5 + 2
            assert await sim.metric("prompt_tokens_total", model_name="sim") == 3 * prompt
            assert await sim.metric("prefix_cache_queries_total") == 3 * prompt
            assert await sim.metric("prefix_cache_hits_total") > 0
            assert await sim.metric("request_success_total", finished_reason="stop") == 2
            assert await sim.metric("request_success_total", finished_reason="abort") == 1

    async def test_every_model_has_its_own(self) -> None:
        async with simulator(models=["one", "two"]) as sim:
            assert await sim.metric("num_requests_running", model_name="one") == 0
            assert await sim.metric("num_requests_running", model_name="two") == 0


class TestTimes:
    async def test_equal_requests_do_not_all_take_equally_long_and_a_seed_repeats(self) -> None:
        async def waits(seed: int) -> list[float]:
            sums = [0.0]
            async with simulator(LeapingClock(), ttft="exponential:1", seed=seed) as sim:
                for _ in range(5):
                    await sim.status("hello")
                    sums.append(await sim.metric("time_to_first_token_seconds_sum"))
            return [later - sooner for sooner, later in itertools.pairwise(sums)]

        first = await waits(1)

        assert len(set(first)) == 5
        assert first == await waits(1)
        assert first != await waits(2)


class TestQueue:
    async def test_requests_wait_for_a_slot_then_are_turned_away(self) -> None:
        async with simulator(max_concurrency=1, max_waiting=1) as sim, asyncio.TaskGroup() as group:
            holding = asyncio.timeout(ENOUGH)
            async with holding, sim.chat("hello", stream=True, fault={"kind": "stall", "after": 1}):
                await sim.until("num_requests_running", 1)
                second = group.create_task(sim.status("hello"))
                await sim.until("num_requests_waiting", 1)

                assert await sim.status("hello") == 503
                assert not second.done()

            assert await second == 200
            await sim.until("num_requests_running", 0)
            assert await sim.metric("num_requests_waiting") == 0

    async def test_a_client_that_leaves_frees_its_slot(self) -> None:
        async with simulator(max_concurrency=1, ttft="constant:3600") as sim:
            async with sim.chat("hello", stream=True):
                await sim.until("num_requests_running", 1)

            await sim.until("num_requests_running", 0)
            assert await sim.metric("request_success_total", finished_reason="abort") == 1
            assert await sim.status("hello", ttft=0) == 200


class TestFaults:
    async def test_orders_are_for_the_next_requests_in_turn(self) -> None:
        async with simulator() as sim:
            for order in ({"kind": "429", "count": 2, "retry_after": 1.5}, {"kind": "503"}):
                async with sim.call("POST", "/sim/faults", json=order) as response:
                    assert response.status == 200

            assert [await sim.status("hello") for _ in range(4)] == [429, 429, 503, 200]

    async def test_orders_can_be_seen_and_cleared(self) -> None:
        async with simulator() as sim:
            async with sim.call("POST", "/sim/faults", json={"kind": "cut", "count": 3, "after": 7}) as response:
                ordered = await response.json()
            async with sim.call("GET", "/sim/faults") as response:
                assert await response.json() == ordered
            async with sim.call("DELETE", "/sim/faults") as response:
                assert await response.json() == {"faults": []}

            assert ordered == {"faults": [{"kind": "cut", "after": 7, "retry_after": None, "count": 3}]}
            assert await sim.status("hello") == 200

    @pytest.mark.parametrize(
        ("order", "param"), [({"kind": "boom"}, "kind"), ({}, "kind"), ({"kind": "cut", "count": 0}, "count")]
    )
    async def test_a_bad_order_is_refused(self, order: dict[str, Any], param: str) -> None:
        async with simulator() as sim, sim.call("POST", "/sim/faults", json=order) as response:
            assert response.status == 400
            assert (await response.json())["error"]["param"] == param

    async def test_bad_requests_use_up_no_fault(self) -> None:
        async with simulator() as sim:
            async with sim.call("POST", "/sim/faults", json={"kind": "429"}):
                pass
            async with sim.call("POST", "/v1/chat/completions", json={}) as response:
                assert response.status == 400

            assert await sim.status("hello") == 429

    async def test_chance_strikes_by_the_settings(self) -> None:
        async with simulator(fault_probability=1, fault_kinds=["503"]) as sim:
            assert await sim.status("hello") == 503


class TestEdges:
    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [("GET", "/", 404), ("POST", "/v1/nothing", 404), ("GET", "/v1/chat/completions", 405)],
    )
    async def test_what_is_not_served_is_refused_in_json(self, method: str, path: str, status: int) -> None:
        async with simulator() as sim, sim.call(method, path) as response:
            assert response.status == status
            assert (await response.json())["error"]["type"] == "invalid_request_error"

    async def test_a_bad_script_in_the_header_is_refused(self) -> None:
        body = {"model": "sim", "messages": [{"role": "user", "content": "hello"}]}
        async with (
            simulator() as sim,
            sim.call("POST", "/v1/chat/completions", json=body, headers={"x-sim": "{"}) as response,
        ):
            assert response.status == 400
            assert (await response.json())["error"]["param"] == "x-sim"

    async def test_health_and_metrics_need_no_key(self) -> None:
        async with simulator(api_key="open sesame") as sim:
            for path, status in (("/health", 200), ("/metrics", 200), ("/v1/models", 401), ("/sim/faults", 401)):
                async with sim.call("GET", path) as response:
                    assert (path, response.status) == (path, status)

    async def test_a_long_prompt_is_read(self) -> None:
        async with simulator() as sim:
            messages = [{"role": "user", "content": "word " * 1_000_000}]
            body = io.BytesIO(json.dumps({"model": "sim", "messages": messages}).encode())
            async with sim.call("POST", "/v1/chat/completions", data=body) as response:
                assert response.status == 200
                assert (await response.json())["usage"]["prompt_tokens"] > 1_000_000


class TestAddress:
    async def test_a_taken_port_moves_on_unless_it_was_asked_for(self) -> None:
        with ports.taken():
            async with running(LlmSimSettings()) as moved:
                assert moved.address != "127.0.0.1:7072"
            with pytest.raises(FailedPrecondition, match="7072 is in use"):
                async with running(LlmSimSettings(listen="127.0.0.1:7072")):
                    pass

    async def test_an_open_address_needs_tls_or_a_word(self) -> None:
        with pytest.raises(InvalidArgument, match="--insecure"):
            async with running(LlmSimSettings(listen="0.0.0.0:0")):
                pass

    async def test_tls_with_certificates_that_change(self, tmp_path: Path) -> None:
        (tmp_path / "one").mkdir()
        (tmp_path / "two").mkdir()
        old, new = authority(tmp_path / "one"), authority(tmp_path / "two")
        files = old.install(tmp_path / "served")
        settings = LlmSimSettings(listen="localhost:0", tls_cert=files.cert, tls_key=files.key)

        async def health(trusted: Path) -> int:
            trust = ssl.create_default_context(cafile=trusted)
            async with (
                aiohttp.ClientSession() as http,
                http.get(served.url.replace("/v1", "/health"), ssl=trust) as response,
            ):
                return response.status

        async with running(settings) as served:
            assert served.url.startswith("https://localhost:")
            assert await health(old.ca) == 200
            new.install(tmp_path / "served")
            assert await health(new.ca) == 200


class TestEnd:
    async def test_an_answer_on_its_way_out_is_finished(self) -> None:
        async with (
            simulator_to_stop(stop_grace=ENOUGH) as (sim, clock, stop),
            sim.chat("count to 5", stream=True) as response,
            asyncio.TaskGroup() as group,
        ):
            stopped = group.create_task(stop())
            await sim.until_refused()
            assert not stopped.done()
            clock.released.set()

            assert (await response.read()).endswith(b"data: [DONE]\n\n")

    async def test_after_the_grace_it_is_cut(self) -> None:
        async with (
            simulator_to_stop(stop_grace=0) as (sim, _, stop),
            sim.chat("count to 5", stream=True) as response,
        ):
            await stop()

            with pytest.raises(aiohttp.ClientPayloadError):
                await response.read()

    @pytest.mark.parametrize("kind", ["stall", "silence"])
    async def test_what_would_last_for_ever_ends_at_once(self, kind: str) -> None:
        async with simulator_to_stop(stop_grace=3600) as (sim, clock, stop), asyncio.TaskGroup() as group:
            clock.released.set()
            async with sim.call("POST", "/sim/faults", json={"kind": kind}):
                pass
            asked = group.create_task(sim.outcome("hello"))
            await sim.until_no_fault_waits()

            async with asyncio.timeout(ENOUGH):
                await stop()

            assert isinstance(await asked, aiohttp.ClientError)


class HeldClock(LeapingClock):
    """Lets nobody sleep to the end before `released` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.released = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        await self.released.wait()
        await super().sleep(seconds)


@asynccontextmanager
async def simulator_to_stop(
    **settings: Any,
) -> AsyncIterator[tuple[Simulator, HeldClock, Callable[[], Coroutine[Any, Any, None]]]]:
    """A simulator whose tokens wait for its clock, and what stops it; the client stays."""
    clock = HeldClock()
    async with (
        AsyncExitStack() as service,
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(ENOUGH)) as http,
    ):
        served = await service.enter_async_context(running(LlmSimSettings(listen="127.0.0.1:0", **settings), clock))
        yield Simulator(served.url, http), clock, service.aclose
