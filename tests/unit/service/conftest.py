"""Real servers on loopback, in a thread of the tests."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from tests.waiting import HANG_SECONDS

from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer
from assay.service.guard import Access
from assay.service.limits import Limits
from assay.service.routes import make_application
from assay.service.server import make_server

FROZEN = Path(__file__).parents[2] / "frozen" / "scorer-1"
Serve = Callable[..., AbstractContextManager[tuple[httpx.Client, uvicorn.Server]]]


@pytest.fixture(scope="session")
def scorer() -> Scorer:
    (head,) = FROZEN.glob("*/scorer.json")
    return load_scorer(head.parent)


@contextmanager
def _serving(
    scorer: Scorer, limits: Limits, access: Access | None = None
) -> Iterator[tuple[httpx.Client, uvicorn.Server]]:
    server = make_server(make_application(scorer, limits, access), limits)
    # As in the server: of a socket that is made from its number, Python knows that it is TCP, and sends at once.
    with socket.socket(fileno=socket.create_server(("127.0.0.1", 0)).detach()) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread = threading.Thread(target=asyncio.run, args=(server.serve([listening]),))
        thread.start()
        try:
            with httpx.Client(base_url=url, timeout=HANG_SECONDS) as client:
                yield client, server
        finally:
            server.should_exit = True
            thread.join(HANG_SECONDS)
            assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving() -> Serve:
    return _serving
