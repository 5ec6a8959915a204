"""Who gets in: bearer tokens, and requests that pages of other sites let a browser send."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import ip_address
from pathlib import Path
from typing import Self

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from assay.errors import RequestError
from assay.service.problems import problem
from assay.service.tokens import TOKENS, Token, TokenFile

TOKENS_OPTIONAL = "ASSAY_TOKENS_OPTIONAL"
# What platforms ask, and the page, which holds nothing of the scorer and asks for a token itself.
OPEN = frozenset(("/livez", "/readyz", "/healthz", "/", "/page.css", "/page.js", "/docs"))
OPEN_FOLDERS = ("/static_content/",)
_TOKEN, _REQUIRED = "assay.token", "assay.token_required"
_SAFE = ("GET", "HEAD")
_PORT = re.compile(r"(^[^:]*|\]):\d+$", re.ASCII)


@dataclass(frozen=True, slots=True)
class Access:
    """Which tokens there are, and whether every request needs one.

    Attributes
    ----------
    tokens : TokenFile or None
    required : bool
    """

    tokens: TokenFile | None = None
    required: bool = False

    @classmethod
    def of_environment(cls) -> Self:
        """Return what ASSAY_TOKENS says: where it names a file, every request needs a token of it.

        `assay serve` sets it always, and ASSAY_TOKENS_OPTIONAL beside it where only this machine can ask.
        """
        path = os.environ.get(TOKENS)
        return cls(TokenFile(Path(path)), not os.environ.get(TOKENS_OPTIONAL)) if path else cls()


class Guard:
    """Lets a request to an application through, or answers it.

    Parameters
    ----------
    application : ASGIApp
    access : Access
    """

    def __init__(self, application: ASGIApp, access: Access) -> None:
        self._application, self._access = application, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "http":
            try:
                self._check(scope)
            except RequestError as error:
                await problem(error.status, str(error), error.headers)(scope, receive, send)
                return
        await self._application(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = dict(scope["headers"])
        check_site(scope["method"], headers)
        scope[_REQUIRED] = self._access.required
        if self._access.tokens is None:
            return
        given = headers.get(b"authorization", b"").decode("latin-1")
        kind, _, text = given.partition(" ")
        token = self._access.tokens.find(text.strip()) if kind.lower() == "bearer" else None
        scope[_TOKEN] = token
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        if path in OPEN or path.startswith(OPEN_FOLDERS):
            return
        if not self._access.required:
            check_host(headers.get(b"host", b"").decode("latin-1"))
        elif token is None:
            raise _unknown(
                "this token is not known; it may have been revoked" if given else "this service needs a token"
            )


def check_site(method: str, headers: dict[bytes, bytes]) -> None:
    """Raise `RequestError` for a request that a page of another site let a browser send (403).

    Browsers say so in Sec-Fetch-Site, where the service is on loopback or behind TLS, and else by an Origin that is
    not the Host. A link that is followed passes; other programs send neither. See https://words.filippo.io/csrf.
    """
    site = headers.get(b"sec-fetch-site")
    if site is None:
        origin = headers.get(b"origin")
        is_foreign = (
            method not in _SAFE and origin is not None and origin.partition(b"://")[2] != headers.get(b"host", b"")
        )
    else:
        is_link = method in _SAFE and headers.get(b"sec-fetch-mode") == b"navigate"
        is_foreign = site not in (b"same-origin", b"none") and not is_link
    if is_foreign:
        raise RequestError(
            403, "a page of another site sent this request; open the page of this service, or use a client"
        )


@lru_cache(64)
def check_host(host: str) -> None:
    """Raise `RequestError` unless a Host, with or without a port, is a name of this machine (403).

    A page elsewhere whose name is made to lead here would be of this site for a browser (DNS rebinding). A proxy that
    passes the name on serves others than this machine, and then there have to be tokens.
    """
    name = host.rpartition(":")[0] if _PORT.search(host) else host
    with suppress(ValueError):
        if name.lower() == "localhost" or name.lower().endswith(".localhost"):
            return
        if ip_address(name.removeprefix("[").removesuffix("]") if name.startswith("[") else name).is_loopback:
            return
    raise RequestError(
        403,
        f"without tokens this service answers to names of this machine alone, such as localhost, not {host!r}; set "
        "ASSAY_TOKENS where a proxy or another name leads to it",
    )


def require_role(request: Request, role: str) -> None:
    """Raise `RequestError` unless the request has a token whose role may do what `role` may (401, 403).

    Where requests need no token, only admin does.
    """
    token: Token | None = request.scope.get(_TOKEN)
    if role != "admin" and not request.scope.get(_REQUIRED):
        return
    if token is None:
        raise _unknown(f"this needs a token of the role {role}, also on this machine")
    if not token.may(role):
        raise RequestError(403, f"token {token.id} has the role {token.role}, and this needs {role}")


def token_id(scope: Scope) -> str | None:
    """Return the id of the token of a request, or None."""
    token: Token | None = scope.get(_TOKEN)
    return None if token is None else token.id


def _unknown(what: str) -> RequestError:
    detail = f"{what}; `assay token new ROLE` makes one, to be sent as `Authorization: Bearer TOKEN`"
    return RequestError(401, detail, www_authenticate="Bearer", connection="close")
