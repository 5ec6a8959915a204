"""Errors of the service as problem details (RFC 9457): a status, and one sentence in ``detail``."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Awaitable, Callable, Mapping
from functools import wraps
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from assay.errors import AssayError, RequestError

MEDIA_TYPE = "application/problem+json"
MOST_SIGNS = 800
CLIENT_GONE = 499
Endpoint = Callable[[Request], Awaitable[Response]]
_LOGGER = logging.getLogger(__name__)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    """Return the answer of an error; of a long sentence, which echoes a long value, its beginning and end are left."""
    if len(detail) > MOST_SIGNS:
        detail = f"{detail[: MOST_SIGNS // 2]} ... {detail[-MOST_SIGNS // 2 :]}"
    # `error` is for clients of before there were problem details.
    content = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail}
    body = json.dumps({**content, "error": detail}).encode()
    return Response(body, status, headers, MEDIA_TYPE)


def problem_of(error: Exception, path: str) -> Response:
    """Return the answer for what an endpoint raised; of an unforeseen error the log gets its kind and place alone.

    Its message may hold values of the request, which never go to a log.
    """
    if isinstance(error, RequestError):
        return problem(error.status, str(error), error.headers)
    if isinstance(error, AssayError):
        return problem(HTTPStatus.BAD_REQUEST, str(error))
    if isinstance(error, ClientDisconnect):
        return Response(status_code=CLIENT_GONE)
    places = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{place.filename}:{place.lineno}" for place in reversed(places))
    _LOGGER.error("%s in %s, at %s", type(error).__name__, path, where)
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "Assay failed at this request, which is a mistake of its own; see its log"
    )


def with_problems(endpoint: Endpoint) -> Endpoint:
    """Answer what an endpoint raises as a problem."""

    @wraps(endpoint)
    async def answered(request: Request) -> Response:
        try:
            return await endpoint(request)
        except Exception as error:
            return problem_of(error, request.url.path)

    return answered


async def http_problem(request: Request, error: Exception) -> Response:
    """Return the answer for a path or method that the service does not have."""
    assert isinstance(error, HTTPException)
    detail = {
        HTTPStatus.NOT_FOUND: f"there is no {request.url.path}; /docs.json lists what there is",
        HTTPStatus.METHOD_NOT_ALLOWED: f"{request.url.path} takes no {request.method}; see /docs.json",
    }
    return problem(error.status_code, detail.get(HTTPStatus(error.status_code), str(error.detail)), error.headers)
