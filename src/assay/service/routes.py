"""The service of scorers, one of each dataset, as an ASGI application, under `assay serve` and in a Bento."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from assay.data.seen_labels import seen_labels_path
from assay.errors import InputError, RequestError
from assay.scorer.scorer import Scorer
from assay.service.access import ACCESS_LOG, AccessLog
from assay.service.answers import Decision, ScoreAnswer, describe, score_answer, versions
from assay.service.explaining import check_explained
from assay.service.feedback import keep_feedback
from assay.service.formats import ARROW, is_arrow, is_npy, read_arrow_question, read_npy_question, require_arrow
from assay.service.guard import Access, Guard, require_role
from assay.service.limits import SERVICE_LIMITS, Limits
from assay.service.metrics import Metrics, VersionMetrics
from assay.service.noting import Noted, Notes
from assay.service.openapi import describe_service
from assay.service.page import page_routes
from assay.service.problems import http_problem, problem_of, with_problems
from assay.service.projects import ProjectActions
from assay.service.receiving import Held, HeldBytes, pass_over, receive_body, unpack
from assay.service.recording import Recorder
from assay.service.requests import Question, read_parameters, read_question
from assay.service.rows import ColumnLayout
from assay.service.shadow import Shadow
from assay.service.spool import Spool
from assay.service.worker import LargeRequests

JSON = "application/json"
_ARROW = ARROW.encode()
DECISIONS_KEPT = 256
LIVE = ("monitors", "following", "challenger")


class Shared:
    """What all scorers of a server share, those that replace each other as well.

    Parameters
    ----------
    limits : Limits

    Attributes
    ----------
    live : callable
        Returns what `/info` says of a scorer and only a server knows: its monitors, and how it follows the champion.
    shadows : dict of str to Shadow
        The challengers of datasets, by name.
    recorders : dict of str to Recorder
        What keeps the rows of datasets, by name.
    feedback : Path or None
        The project whose datasets' labels are kept.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.metrics, self.notes = Metrics(), Notes()
        self.held = Held(limits.held)
        self.large = LargeRequests(limits)
        self.shadows: dict[str, Shadow] = {}
        self.recorders: dict[str, Recorder] = {}
        self.feedback: Path | None = None
        self.live: Callable[[Scorer], dict[str, Any]] = lambda scorer: dict.fromkeys(LIVE)


class Service:
    """What answers the requests about one scorer.

    Parameters
    ----------
    scorer : Scorer
    shared : Shared
    """

    def __init__(self, scorer: Scorer, shared: Shared) -> None:
        self.scorer = scorer
        self.limits = limits = shared.limits
        self.metrics = VersionMetrics(shared.metrics, scorer.name, scorer.version)
        self._described, self._shared = describe(scorer), shared
        self.version = orjson.dumps({"name": scorer.name, **versions(scorer)})
        self.openapi = orjson.dumps(describe_service(scorer, limits))
        self._layout = ColumnLayout.of(scorer)
        self._decision = lru_cache(DECISIONS_KEPT)(partial(Decision.of, scorer))
        self._spool = Spool.of(scorer)
        self._recorder, self._shadow = shared.recorders.get(scorer.name), shared.shadows.get(scorer.name)

    @property
    def description(self) -> bytes:
        """The body of an answer of /info."""
        return orjson.dumps({**self._described, **self._shared.live(self.scorer)})

    async def score(self, request: Request) -> Response:
        """Answer /score: small requests at once, large ones in the thread of large requests."""
        start, answer = time.perf_counter(), None
        try:
            answer, response = await self._answered(request)
        except Exception as error:
            response = problem_of(error, request.url.path)
        self._shared.notes.add(
            Noted(self.metrics, self._spool, response.status_code, time.perf_counter() - start, answer)
        )
        return response

    async def _answered(self, request: Request) -> tuple[ScoreAnswer, Response]:
        scope, limits = request.scope, self.limits
        headers = dict(scope["headers"])
        coding = headers.get(b"content-encoding", b"").decode("latin-1").lower()  # both have no case (RFC 9110)
        is_arrow_wanted = _ARROW in headers.get(b"accept", b"").lower()
        parameters = dict(request.query_params) if scope["query_string"] else {}
        with HeldBytes(self._shared.held) as share:
            body = await receive_body(request, limits, share)
            if is_arrow_wanted:
                require_arrow(406)
            if parameters and len(parameters) < len(request.query_params.multi_items()):
                raise InputError("a parameter of the address is given twice; give each of eps, fdr and explain once")
            content = body if not coding and len(body) <= limits.small_body else unpack(body, coding, limits.small_body)
            # Explanations take up to a thousand scores a row: they wait behind each other, and small requests do not.
            if content is None or is_arrow(content) or "explain" in parameters:
                question: Callable[[], Question] = lambda: self._read(self._unpack(body, coding))  # noqa: E731
                answer = await self._shared.large.run(
                    lambda: self._answer(parameters, is_arrow_wanted, question()), request
                )
            else:
                small = self._read(content)
                if len(small.rows) > limits.small_rows:
                    answer = await self._shared.large.run(
                        lambda: self._answer(parameters, is_arrow_wanted, small), request
                    )
                else:
                    answer = self._answer(parameters, is_arrow_wanted, small)
        return answer

    def _unpack(self, body: bytes | bytearray, coding: str) -> bytes | bytearray:
        content = unpack(body, coding, self.limits.body)
        if content is None:
            raise RequestError(
                413, f"the unpacked body has more than {self.limits.body} bytes; send fewer rows at a time"
            )
        return content

    def _read(self, body: bytes | bytearray) -> Question:
        if is_npy(body):
            return read_npy_question(body, self._layout, self.limits)
        if is_arrow(body):
            return read_arrow_question(body, self._layout, self.limits)
        return read_question(body, self._layout, self.limits)

    def _answer(
        self, parameters: dict[str, str], is_arrow_wanted: bool, question: Question
    ) -> tuple[ScoreAnswer, Response]:
        question = read_parameters(parameters, question) if parameters else question
        if question.explain:
            check_explained(self.scorer, len(question.rows), self.limits)
        decision = self._decision(question.eps, question.fdr)
        answer = score_answer(self.scorer, question, decision)
        if self._recorder is not None:
            self._recorder.keep(self.scorer, question)
        if self._shadow is not None:
            self._shadow.follow(self.scorer, question, decision.rule, answer.flags)
        if is_arrow_wanted:
            return answer, Response(answer.to_arrow(), media_type=ARROW)
        return answer, Response(memoryview(answer.to_json()), media_type=JSON)


class _Application(Starlette):
    """Starlette's routes behind the guard and the access log, and `/score`, which passes the routes by."""

    def __init__(self, access: Access) -> None:
        self._access, self._is_logged = access, bool(os.environ.get(ACCESS_LOG))
        super().__init__(routes=_routes(), exception_handlers={HTTPException: http_problem}, lifespan=_noted)

    def build_middleware_stack(self) -> ASGIApp:
        guarded = Guard(Shortcut(super().build_middleware_stack()), self._access)
        return AccessLog(guarded) if self._is_logged else guarded


@asynccontextmanager
async def _noted(application: Starlette) -> AsyncIterator[None]:
    """Keep what is not counted yet when a Bento ends; `assay serve` does so itself."""
    yield
    application.state.shared.notes.write()


def make_application(
    scorer: Scorer | None = None, limits: Limits = SERVICE_LIMITS, access: Access | None = None
) -> Starlette:
    """Return the application; without a scorer it answers 503 until `set_scorer` gives it one.

    Who gets in is what the environment says, unless `access` is given.
    """
    application = _Application(access or Access.of_environment())
    application.state.shared, application.state.services = Shared(limits), {}
    application.state.project = ProjectActions()
    if scorer is not None:
        set_scorer(application, scorer)
    return application


def set_scorer(application: Starlette, scorer: Scorer) -> None:
    """Let an application of `make_application` answer by a scorer from now on, for its dataset."""
    state = application.state
    service, former = Service(scorer, state.shared), state.services.get(scorer.name)
    # A request asks for its service once, so that its answer is wholly of one version.
    state.services = {**state.services, scorer.name: service}
    if former is not None:
        state.shared.metrics.answering.labels(*former.metrics.labels).set(0)
    state.shared.metrics.answering.labels(*service.metrics.labels).set(1)


def _service(request: Request) -> Service:
    services: dict[str, Service] = request.scope["app"].state.services
    name = request.scope["path_params"].get("name")
    if name is None and len(services) == 1:
        return next(iter(services.values()))
    if not services:
        raise RequestError(503, "no scorer is loaded yet; ask again later", retry_after="1")
    if name not in services:
        wanted = "several datasets" if name is None else f"no dataset {name!r}"
        raise RequestError(404, f"this server has {wanted}; ask for /v1/NAME/..., NAME being {' or '.join(services)}")
    return services[name]


async def _score(request: Request) -> Response:
    try:
        service = _service(request)
    except RequestError as error:
        await pass_over(request.receive)
        return problem_of(error, request.url.path)
    return await service.score(request)


class Shortcut:
    """Answers POST /score itself, and leaves all else to an application: Starlette's routing costs half of a row.

    Parameters
    ----------
    application : ASGIApp
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http" and scope["method"] == "POST" and scope["path"].endswith("/score"):
            for route in _SCORE:
                match, matched = route.matches(scope)
                if match is Match.FULL:
                    scope.update(matched, route=route)
                    answer = await _score(Request(scope, receive, send))
                    await answer(scope, receive, send)
                    return
        await self._application(scope, receive, send)


_SCORE = [Route(path, _score, methods=["POST"]) for path in ("/score", "/v1/{name}/score")]


async def _feedback(request: Request) -> Response:
    require_role(request, "feedback")
    service, shared = _service(request), request.app.state.shared
    path = None if shared.feedback is None else seen_labels_path(shared.feedback, service.scorer.name)
    kept = await keep_feedback(request, path, shared.limits, shared.held)
    return Response(orjson.dumps({"kept": kept}), media_type=JSON)


async def _metrics(request: Request) -> Response:
    state = request.app.state
    state.shared.notes.write()
    for service in state.services.values():
        state.shared.live(service.scorer)
    return Response(state.shared.metrics.text(), media_type=Metrics.media_type)


async def _ready(request: Request) -> Response:
    if not request.app.state.services:
        raise RequestError(503, "no scorer is loaded yet; ask again later", retry_after="1")
    return Response(b"\n", media_type="text/plain")


def _fixed(content: Callable[[Service], bytes], media_type: str = JSON) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return Response(content(_service(request)), media_type=media_type)

    return endpoint


def _of_project(
    action: Callable[[ProjectActions, Request, Scorer], Awaitable[Response]],
) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        return await action(request.app.state.project, request, _service(request).scorer)

    return with_problems(endpoint)


async def _alive(_: Request) -> Response:
    return Response(b"\n", media_type="text/plain")


def _routes() -> list[BaseRoute]:
    description, version, openapi = (
        with_problems(_fixed(content))
        for content in (lambda s: s.description, lambda s: s.version, lambda s: s.openapi)
    )
    ready = with_problems(_ready)
    of_a_scorer: dict[str, tuple[Callable[[Request], Awaitable[Response]], list[str]]] = {
        "score": (_score, ["POST"]),
        "feedback": (with_problems(_feedback), ["POST"]),
        "info": (description, ["GET", "POST"]),
        "version": (version, ["GET", "POST"]),
        "docs.json": (openapi, ["GET"]),
        "openapi.json": (openapi, ["GET"]),
        "project": (_of_project(ProjectActions.offers), ["GET"]),
        "scorers": (_of_project(ProjectActions.scorers), ["GET"]),
        "report": (_of_project(ProjectActions.report), ["GET"]),
        "lineage": (_of_project(ProjectActions.lineage), ["GET"]),
        "promote": (_of_project(ProjectActions.promote), ["POST"]),
    }
    return [
        *(Route(f"/{path}", answer, methods=methods) for path, (answer, methods) in of_a_scorer.items()),
        *(Route(f"/v1/{{name}}/{path}", answer, methods=methods) for path, (answer, methods) in of_a_scorer.items()),
        Route("/livez", _alive),
        Route("/readyz", ready),
        Route("/healthz", ready),
        Route("/metrics", with_problems(_metrics)),
        *page_routes(),
    ]
