"""An access log: one line of JSON for each request, without anything that a client wrote."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from assay.service.guard import token_id
from assay.service.telling import STDOUT, tell

ACCESS_LOG = "ASSAY_ACCESS_LOG"
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


class AccessLog:
    """Writes a line to standard output after every answer.

    It holds the time, the method, the route (null where there is none: a path may be anything), the status, the
    seconds, the bytes of the answer, the client's address and the id of its token. No answer waits or fails for want of
    a reader: the line after those that nobody took says how many they were, as ``missed``.

    Parameters
    ----------
    application : ASGIApp
    """

    def __init__(self, application: ASGIApp) -> None:
        self._application, self._missed = application, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and log it."""
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        start, seen = time.perf_counter(), {"status": 0, "bytes": 0}

        async def watched(message: Message) -> None:
            if message["type"] == "http.response.start":
                seen["status"] = message["status"]
            seen["bytes"] += len(message.get("body", b""))
            await send(message)

        try:
            await self._application(scope, receive, watched)
        finally:
            client = scope.get("client")
            line: dict[str, Any] = {
                "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "method": scope["method"] if scope["method"] in _METHODS else None,
                "route": getattr(scope.get("route"), "path", None),
                "status": seen["status"] or None,
                "seconds": round(time.perf_counter() - start, 6),
                "bytes": seen["bytes"],
                "client": client[0] if client else None,
                "token": token_id(scope),
            }
            line |= {"missed": self._missed} if self._missed else {}
            self._missed = 0 if tell(json.dumps(line), STDOUT) else self._missed + 1
