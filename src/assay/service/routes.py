"""The service of one scorer as an ASGI application, the same under `assay serve` and in a Bento."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

from assay.errors import RequestError
from assay.scorer.scorer import Scorer
from assay.service.access import ACCESS_LOG, AccessLog
from assay.service.answers import Decision, ScoreAnswer, describe, score_answer, versions
from assay.service.explaining import check_explained
from assay.service.formats import ARROW, is_arrow, is_npy, read_arrow_question, read_npy_question, require_arrow
from assay.service.guard import Access, Guard
from assay.service.limits import SERVICE_LIMITS, Limits
from assay.service.metrics import Metrics
from assay.service.openapi import describe_service
from assay.service.page import NOTHING_FROM_ELSEWHERE, PAGE
from assay.service.problems import http_problem, with_problems
from assay.service.receiving import Held, HeldBytes, receive_body, unpack
from assay.service.requests import Question, read_parameters, read_question
from assay.service.rows import ColumnLayout
from assay.service.spool import Spool
from assay.service.worker import LargeRequests

JSON = "application/json"
DECISIONS_KEPT = 256


class Service:
    """What answers the requests about one scorer.

    Parameters
    ----------
    scorer : Scorer
    limits : Limits
    """

    def __init__(self, scorer: Scorer, limits: Limits = SERVICE_LIMITS) -> None:
        self.scorer = scorer
        self.limits = limits
        self.metrics = Metrics()
        self.description = orjson.dumps(describe(scorer))
        self.version = orjson.dumps({"name": scorer.name, **versions(scorer)})
        self.openapi = orjson.dumps(describe_service(scorer, limits))
        self._layout = ColumnLayout.of(scorer)
        self._decision = lru_cache(DECISIONS_KEPT)(partial(Decision.of, scorer))
        self._keep = Spool.of(scorer).append
        self._held = Held(limits.held)
        self._large = LargeRequests(limits)

    async def score(self, request: Request) -> Response:
        """Answer /score: small requests at once, large ones in the thread of large requests."""
        limits = self.limits
        with HeldBytes(self._held) as share:
            body = await receive_body(request, limits, share)
            headers = dict(request.scope["headers"])
            coding = headers.get(b"content-encoding", b"").decode("latin-1")
            is_arrow_wanted = ARROW.encode() in headers.get(b"accept", b"")
            if is_arrow_wanted:
                require_arrow(406)
            parameters = dict(request.query_params) if request.scope["query_string"] else {}
            answer: Callable[[Question], bytes] = partial(self._answer, parameters, is_arrow_wanted)
            content = unpack(body, coding, limits.small_body)
            # Explanations take up to a thousand scores a row: they wait behind each other, and small requests do not.
            if content is None or is_arrow(content) or "explain" in parameters:
                unpacked = partial(self._unpack, body, coding)
                result = await self._large.run(lambda: answer(self._read(unpacked())), request)
            else:
                question = self._read(content)
                if len(question.rows) > limits.small_rows:
                    result = await self._large.run(partial(answer, question), request)
                else:
                    result = answer(question)
        return Response(result, media_type=ARROW if is_arrow_wanted else JSON)

    def _unpack(self, body: bytes, coding: str) -> bytes:
        content = unpack(body, coding, self.limits.body)
        if content is None:
            raise RequestError(
                413, f"the unpacked body has more than {self.limits.body} bytes; send fewer rows at a time"
            )
        return content

    def _read(self, body: bytes) -> Question:
        if is_npy(body):
            return read_npy_question(body, self._layout, self.limits)
        if is_arrow(body):
            return read_arrow_question(body, self._layout, self.limits)
        return read_question(body, self._layout, self.limits)

    def _answer(self, parameters: dict[str, str], is_arrow_wanted: bool, question: Question) -> bytes:
        question = read_parameters(parameters, question) if parameters else question
        if question.explain:
            check_explained(self.scorer, len(question.rows), self.limits)
        decision = self._decision(question.eps, question.fdr)
        answer: ScoreAnswer = score_answer(self.scorer, question, decision, self._keep)
        self.metrics.rows.inc(len(answer.flags))
        return answer.to_arrow() if is_arrow_wanted else answer.to_json()


def make_application(
    scorer: Scorer | None = None, limits: Limits = SERVICE_LIMITS, access: Access | None = None
) -> Starlette:
    """Return the application; without a scorer it answers 503 until `set_scorer` gives it one.

    Who gets in is what the environment says, unless `access` is given.
    """
    middleware = [Middleware(Guard, access or Access.of_environment())]
    if os.environ.get(ACCESS_LOG):
        middleware.insert(0, Middleware(AccessLog))
    application = Starlette(routes=_routes(), exception_handlers={HTTPException: http_problem}, middleware=middleware)
    application.state.service = None if scorer is None else Service(scorer, limits)
    return application


def set_scorer(application: Starlette, scorer: Scorer) -> None:
    """Let an application of `make_application` answer by a scorer."""
    application.state.service = Service(scorer)


def _service(request: Request) -> Service:
    service: Service | None = request.app.state.service
    if service is None:
        raise RequestError(503, "no scorer is loaded yet; ask again later", retry_after="1")
    return service


async def _score(request: Request) -> Response:
    service = _service(request)
    with service.metrics.seconds.time():
        return await service.score(request)


def _fixed(content: Callable[[Service], bytes], media_type: str = JSON) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(content(_service(request)), media_type=media_type)

    return endpoint


async def _page(_: Request) -> Response:
    return HTMLResponse(PAGE, headers={"Content-Security-Policy": NOTHING_FROM_ELSEWHERE})


async def _alive(_: Request) -> Response:
    return Response(b"\n", media_type="text/plain")


def _routes() -> list[BaseRoute]:
    description, version, openapi = (
        with_problems(_fixed(content))
        for content in (lambda s: s.description, lambda s: s.version, lambda s: s.openapi)
    )
    ready = with_problems(_fixed(lambda _: b"\n", "text/plain"))
    metrics = with_problems(_fixed(lambda s: s.metrics.text(), Metrics.media_type))
    package = find_spec("bentoml")
    assert package is not None
    assert package.origin is not None
    files = Path(package.origin).parent / "_internal" / "server" / "static_content"
    return [
        Route("/score", with_problems(_score), methods=["POST"]),
        Route("/livez", _alive),
        Route("/readyz", ready),
        Route("/healthz", ready),
        Route("/info", description, methods=["GET", "POST"]),
        Route("/version", version, methods=["GET", "POST"]),
        Route("/docs.json", openapi),
        Route("/openapi.json", openapi),
        Route("/metrics", metrics),
        Route("/", _page),
        Mount("/static_content", StaticFiles(directory=files)),
    ]
