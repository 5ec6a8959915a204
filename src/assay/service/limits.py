"""What a service takes: sizes of requests, how many wait, and for how long."""

from __future__ import annotations

import re
from dataclasses import dataclass

from assay.errors import RequestError
from assay.names import CONTROL

MIB = 2**20
CONTROL_IN_DOCUMENT = r"\x00"
HOLDS_CONTROL = "holds a control character, such as a line break; leave it out"


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a service.

    Attributes
    ----------
    body : int
        Bytes of a body, as it is sent and again as it is unpacked.
    head : int
        Bytes of the head of a request, or of what follows its body.
    held : int
        Bytes of all bodies at one time.
    rows, values, text : int
        Rows of a request, values in a JSON body, characters of one text.
    explained : int
        Rows x columns x columns that one request may have explained, some ten seconds of kNN.
    small_body, small_rows : int
        Requests of at most so many bytes and rows are answered at once, all others one after the other in a thread.
    whole_body : int
        Bytes of a JSON body that may be parsed at once, some 10 ms, in which nobody else is answered.
    waiting : int
        Large requests at one time, the one that is scored among them.
    connections : int
    body_seconds, queue_seconds : float
        For the whole body to arrive; for a large request to wait.
    head_seconds, answer_seconds : float
        For the head of a request to arrive; for a client to fetch an answer.
    idle_seconds : float
        For a quiet connection to ask once more, when the server ends.
    """

    body: int = 64 * MIB
    head: int = 2**16
    held: int = 256 * MIB
    rows: int = 100_000
    values: int = 10_000_000
    text: int = 10_000
    explained: int = 1_000_000
    small_body: int = 2**16
    small_rows: int = 64
    whole_body: int = MIB
    waiting: int = 8
    connections: int = 1000
    body_seconds: float = 60.0
    queue_seconds: float = 60.0
    head_seconds: float = 10.0
    answer_seconds: float = 60.0
    idle_seconds: float = 5.0

    def check_rows(self, n: int) -> None:
        """Raise `RequestError` if a request has more than the allowed rows."""
        if n > self.rows:
            raise RequestError(413, f"the request has more than {self.rows} rows; send at most so many at a time")

    def check_text(self, text: str, what: str, *, document: bool = False) -> None:
        """Raise `RequestError` for a text that is too long, or that no file of a dataset may hold: rows are recorded.

        That is one with half of a surrogate pair, or with control characters, of which a document may have others than
        the zero byte.
        """
        if len(text) > self.text:
            raise RequestError(413, f"{what} has {len(text)} characters; a text has at most {self.text}")
        if not text.isascii() and any("\ud800" <= sign <= "\udfff" for sign in text):
            raise RequestError(400, f"{what} holds half of a surrogate pair, which is no character; send Unicode")
        if not text.isprintable() and re.search(CONTROL_IN_DOCUMENT if document else CONTROL, text):
            raise RequestError(400, f"{what} {HOLDS_CONTROL}")


SERVICE_LIMITS = Limits()
