"""The bytes of a request: read and unpacked within limits, whatever the client sends, and however slowly."""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from types import TracebackType

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive

from assay.errors import InputError, RequestError
from assay.service.limits import MIB, Limits

GZIP = 31  # zlib's number for a window of 32 KiB and the head of gzip
REST_SECONDS = 2.0
RETRY_SECONDS = "5"


class Held:
    """The bytes of all bodies that a service holds at one time.

    Parameters
    ----------
    most : int
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self.total = 0


class HeldBytes:
    """The bytes that one request holds, until the block ends."""

    def __init__(self, held: Held) -> None:
        self._held = held
        self._bytes = 0

    def __enter__(self) -> HeldBytes:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._held.total -= self._bytes

    def take(self, n: int) -> None:
        """Hold n more bytes; raise `RequestError` if the service then held too many."""
        if self._held.total + n > self._held.most:
            raise RequestError(
                503,
                f"the service holds {self._held.total // MIB} MiB of other requests; send this one again later",
                retry_after=RETRY_SECONDS,
            )
        self._held.total += n
        self._bytes += n


class _Chunks:
    """The body of a request as it comes in."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self.more = True

    async def next(self) -> bytes:
        message = await self._request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        self.more = message.get("more_body", False)
        content: bytes = message.get("body", b"")
        return content


async def pass_over(receive: Receive) -> None:
    """Read what is left of a body, for a moment: a client that is still sending would not read the answer."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(REST_SECONDS):
            while (await receive()).get("more_body", False):
                pass


async def receive_body(request: Request, limits: Limits, share: HeldBytes) -> bytes | bytearray:
    """Return the body of a request, as it is sent.

    Raises
    ------
    RequestError
        It is too large (413), arrives too slowly (408), or the service holds too much already (503).
    ClientDisconnect
        The client has gone.
    """
    chunks = _Chunks(request)
    try:
        # Under uvicorn what receives is a method of the request, mostly whole already: then nobody needs a deadline.
        if not getattr(getattr(request.receive, "__self__", None), "more_body", True):
            return await _receive(chunks, limits, share)
        declared = request.headers.get("content-length", "0")
        if len(declared) > 15 or (declared.isdigit() and int(declared) > limits.body):
            raise _too_large(limits)
        async with asyncio.timeout(limits.body_seconds):
            return await _receive(chunks, limits, share)
    except TimeoutError:
        raise RequestError(
            408,
            f"the body did not arrive within {limits.body_seconds:g} s; send it faster, or fewer rows at a time",
            connection="close",
        ) from None
    except RequestError as error:
        if chunks.more:
            await pass_over(request.receive)
        error.headers["connection"] = "close"
        raise


async def _receive(chunks: _Chunks, limits: Limits, share: HeldBytes) -> bytes | bytearray:
    body: bytes | bytearray = b""
    while chunks.more:
        chunk = await chunks.next()
        if len(body) + len(chunk) > limits.body:
            raise _too_large(limits)
        share.take(len(chunk))
        if not body:
            body = chunk
        else:
            # It grows in place: to join it at the end would keep everybody waiting.
            body = bytearray(body) if isinstance(body, bytes) else body
            body += chunk
    return body


def _too_large(limits: Limits) -> RequestError:
    return RequestError(413, f"the body has more than {limits.body // MIB} MiB; send fewer rows at a time, or .npy")


def unpack(body: bytes | bytearray, coding: str, most: int) -> bytes | bytearray | None:
    """Return a body as it was before it was packed, or None if that is longer than `most` bytes.

    Parameters
    ----------
    body : bytes or bytearray
    coding : str
        The header content-encoding: gzip, or identity for a body that is not packed.
    most : int

    Raises
    ------
    RequestError
        The coding is another one.
    InputError
        The body is not whole, or followed by something else.
    """
    if coding in ("", "identity"):
        return body if len(body) <= most else None
    if coding not in ("gzip", "x-gzip"):
        raise RequestError(
            415, f"content-encoding is {coding!r}; send the body as it is, or packed by gzip", accept_encoding="gzip"
        )
    packed = zlib.decompressobj(GZIP)
    try:
        content = packed.decompress(body, most + 1)
    except zlib.error as error:
        raise InputError(f"the body is not gzip, as content-encoding says ({error})") from error
    if len(content) > most:
        return None
    if not packed.eof or packed.unused_data:
        what = "is cut off" if not packed.eof else "goes on after its end"
        raise InputError(f"the gzip stream of the body {what}; send one whole stream")
    return content
