"""The routes of the simulator: OpenAI's, vLLM's /metrics, and /sim/faults of its own."""

import asyncio
import hmac
from random import Random

import msgspec
import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from troupe.chassis.clock import Clock
from troupe.chassis.ids import uuid7
from troupe.llm_sim import metrics, protocol, script
from troupe.llm_sim.checks import check
from troupe.llm_sim.encoding import Head
from troupe.llm_sim.engine import Engine
from troupe.llm_sim.errors import ApiError, bad_request
from troupe.llm_sim.faults import FaultKind, FaultOrder, FaultPlan
from troupe.llm_sim.http.delivery import deliver_body, deliver_events, fall_silent, gone
from troupe.llm_sim.protocol import ChatRequest
from troupe.llm_sim.settings import LlmSimSettings

log = structlog.get_logger()

LARGEST_BODY = 64 * 1024 * 1024
"""Bytes of a request: a context of millions of tokens fits."""

_OPEN = ("/health", "/metrics")
"""Paths that ask for no key, as with vLLM."""

_order_decoder = msgspec.json.Decoder(FaultOrder)


class Routes:
    """What answers requests. `stopping`, once set, ends what would wait for ever and refuses what is new."""

    def __init__(self, settings: LlmSimSettings, clock: Clock, stopping: asyncio.Event) -> None:
        self._metrics = metrics.Metrics()
        self._engine = Engine(settings, clock, self._metrics)
        self._faults = FaultPlan(settings.fault_probability, settings.fault_kinds)
        self._chance = Random(f"faults {settings.seed}")
        self._key = settings.api_key.get_secret_value() if settings.api_key else ""
        self._clock = clock
        self._started = int(clock.now())
        self._stopping = stopping

    def application(self) -> web.Application:
        """All routes; every answer that is no success carries OpenAI's error object."""
        application = web.Application(middlewares=[self._guarded], client_max_size=LARGEST_BODY)
        application.router.add_post("/v1/chat/completions", self._chat)
        application.router.add_get("/v1/models", self._list_models)
        application.router.add_get("/v1/models/{model:.+}", self._get_model)
        application.router.add_get("/health", self._health)
        application.router.add_get("/metrics", self._expose)
        application.router.add_get("/sim/faults", self._list_faults)
        application.router.add_post("/sim/faults", self._order_fault)
        application.router.add_delete("/sim/faults", self._clear_faults)
        application.on_response_prepare.append(_identify)
        return application

    async def _chat(self, http: web.Request) -> web.StreamResponse:
        request = await self._read(http)
        self._engine.require(request.model)
        fault = request.sim.fault if request.sim and request.sim.fault else self._faults.take(self._chance)
        if fault and (error := fault.error()):
            raise error
        if fault and fault.kind is FaultKind.SILENCE:
            await fall_silent(http, self._stopping)
        head = Head(f"chatcmpl-{uuid7().replace('-', '')}", request.model, int(self._clock.now()))
        async with self._engine.generating(request) as generation:
            if not request.stream:
                return await deliver_body(http, generation, head, fault=fault, stopping=self._stopping)
            counts = request.stream_options is not None and request.stream_options.include_usage
            return await deliver_events(http, generation, head, counts=counts, fault=fault, stopping=self._stopping)

    async def _read(self, http: web.Request) -> ChatRequest:
        request = protocol.decode(await http.read())
        if "x-sim" in http.headers:
            try:
                own = script.decode(http.headers["x-sim"])
            except (msgspec.DecodeError, UnicodeError) as error:
                raise bad_request(f"Invalid header 'x-sim': {error}.", "x-sim", "invalid_value") from error
            request = msgspec.structs.replace(request, sim=own)
        check(request)
        return request

    async def _list_models(self, _: web.Request) -> web.Response:
        return _json({"object": "list", "data": [self._model(model) for model in self._engine.models]})

    async def _get_model(self, http: web.Request) -> web.Response:
        model = http.match_info["model"]
        self._engine.require(model)
        return _json(self._model(model))

    def _model(self, model: str) -> dict[str, object]:
        return {"id": model, "object": "model", "created": self._started, "owned_by": "troupe"}

    async def _health(self, _: web.Request) -> web.Response:
        return _json({"status": "ok"})

    async def _expose(self, _: web.Request) -> web.Response:
        return web.Response(body=self._metrics.exposition(), headers={"Content-Type": metrics.CONTENT_TYPE})

    async def _list_faults(self, _: web.Request) -> web.Response:
        return _json({"faults": self._faults.orders})

    async def _order_fault(self, http: web.Request) -> web.Response:
        try:
            order = _order_decoder.decode(await http.read())
        except msgspec.ValidationError as error:
            raise protocol.refused(error) from error
        except (msgspec.DecodeError, UnicodeError) as error:
            raise bad_request(f"The order is no JSON: {error}.") from error
        self._faults.order(order)
        log.info("fault ordered", kind=order.kind, count=order.count)
        return await self._list_faults(http)

    async def _clear_faults(self, http: web.Request) -> web.Response:
        self._faults.clear()
        return await self._list_faults(http)

    @web.middleware
    async def _guarded(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            self._admit(request)
            return await handler(request)
        except ApiError as error:
            return _refusal(error)
        except web.HTTPException as error:
            return _refusal(_translated(request, error))
        except ConnectionError:
            await gone()
            raise
        except Exception:
            log.exception("request failed", path=request.path)
            return _refusal(ApiError(500, "The simulator has a defect; its log says more.", type="server_error"))

    def _admit(self, http: web.Request) -> None:
        if self._stopping.is_set():
            raise ApiError(503, "The simulator is stopping.", type="server_error", code="stopping")
        given = http.headers.get("Authorization", "").removeprefix("Bearer ").encode()
        if self._key and http.path not in _OPEN and not hmac.compare_digest(given, self._key.encode()):
            message = "Incorrect API key provided. Send the simulator's key as 'Authorization: Bearer KEY'."
            raise ApiError(401, message, code="invalid_api_key")


async def _identify(_: web.Request, response: web.StreamResponse) -> None:
    response.headers["x-request-id"] = f"req_{uuid7().replace('-', '')}"


def _json(value: object) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), content_type="application/json")


def _refusal(error: ApiError) -> web.Response:
    return web.Response(
        status=error.status, body=error.body(), headers=error.headers(), content_type="application/json"
    )


def _translated(http: web.Request, error: web.HTTPException) -> ApiError:
    match error:
        case web.HTTPNotFound():
            return ApiError(404, f"Invalid URL ({http.method} {http.path})", code="unknown_url")
        case web.HTTPMethodNotAllowed():
            allowed = ", ".join(sorted(error.allowed_methods))
            return ApiError(405, f"Not allowed to {http.method} on {http.path}; allowed: {allowed}.")
        case web.HTTPRequestEntityTooLarge():
            return ApiError(413, f"The request is larger than {LARGEST_BODY} bytes.")
        case _:
            return ApiError(error.status, error.reason)
