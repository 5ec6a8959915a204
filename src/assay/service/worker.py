"""Large requests, one after the other in a thread, so that small ones need not wait for them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request

from assay.errors import RequestError
from assay.service.limits import Limits
from assay.service.receiving import RETRY_SECONDS

T = TypeVar("T")


class LargeRequests:
    """A thread, and a queue of limited length before it.

    Parameters
    ----------
    limits : Limits
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._thread = ThreadPoolExecutor(1, "large-requests")
        self._jobs: set[Future[Any]] = set()

    async def run(self, call: Callable[[], T], request: Request) -> T:
        """Return what `call` returns in the thread; a request whose client goes before its turn is dropped.

        Raises
        ------
        RequestError
            Too many wait already, or this one waited too long (503).
        ClientDisconnect
            The client has gone.
        """
        limits = self._limits
        self._jobs = {job for job in self._jobs if not job.done()}
        if len(self._jobs) >= limits.waiting:
            raise _busy(f"{len(self._jobs)} large requests wait already")
        job = self._thread.submit(call)
        self._jobs.add(job)
        answer: asyncio.Future[Any] = asyncio.wrap_future(job)
        gone: asyncio.Future[Any] = asyncio.create_task(_until_gone(request))
        try:
            await asyncio.wait({answer, gone}, timeout=limits.queue_seconds, return_when=asyncio.FIRST_COMPLETED)
            if not answer.done() and job.cancel():
                if gone.done():
                    raise ClientDisconnect
                raise _busy(f"this request waited for {limits.queue_seconds:g} s behind large ones")
            return await answer  # type: ignore[no-any-return]
        finally:
            gone.cancel()


def _busy(reason: str) -> RequestError:
    detail = f"{reason}; send it again in {RETRY_SECONDS} s, or fewer rows at a time"
    return RequestError(503, detail, retry_after=RETRY_SECONDS)


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
