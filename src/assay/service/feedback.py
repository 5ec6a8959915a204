"""Labels of rows that clients send after they have seen the score: POST /feedback."""

from __future__ import annotations

import asyncio
import logging
import unicodedata
from pathlib import Path
from typing import Any

from starlette.requests import Request

from assay.data.seen_labels import append_seen_labels
from assay.errors import InputError, RequestError
from assay.parts import parse_json
from assay.service.limits import Limits
from assay.service.receiving import Held, HeldBytes, receive_body

FEEDBACK = '{"who": name, "answers": [{"id": row id, "label": 0 normal or 1 anomaly}, ...]}'
_LOGGER = logging.getLogger(__name__)


async def keep_feedback(request: Request, path: Path | None, limits: Limits, held: Held) -> int:
    """Append the labels of a request to a dataset's file, and return their number.

    Raises
    ------
    RequestError
        The server keeps none (404), the body is too large (413), or the file cannot be written (503).
    InputError
        The body is not `FEEDBACK`.
    """
    if path is None:
        raise RequestError(404, "this server keeps no feedback; `assay serve` in a project does")
    with HeldBytes(held) as share:
        body = await receive_body(request, limits, share)
        if len(body) > limits.small_body:
            raise RequestError(
                413, f"the body has {len(body)} bytes, and at most {limits.small_body}; send fewer labels"
            )
        who, labels = read_feedback(body, limits)
    try:
        await asyncio.to_thread(append_seen_labels, path, labels, who)
    except OSError as error:
        _LOGGER.error("%s: %s; feedback was refused", path, error.strerror)
        raise RequestError(503, "the file of labels cannot be written; nothing was kept", retry_after="60") from error
    return len(labels)


def read_feedback(body: bytes | bytearray, limits: Limits) -> tuple[str, list[tuple[str, int]]]:
    """Return who labelled which rows, (row id, label) each; raise `InputError` where the body says something else."""
    try:
        content = parse_json(bytes(body))
    except ValueError as error:
        raise InputError(f"the body is not JSON ({error}); send {FEEDBACK}") from error
    if not isinstance(content, dict) or set(content) != {"who", "answers"} or not isinstance(content["answers"], list):
        raise InputError(f"the body must have who and a list of answers, and nothing else; send {FEEDBACK}")
    labels = [_answer(number, each, limits) for number, each in enumerate(content["answers"])]
    return _text(content["who"], "who", limits), labels


def _answer(number: int, answer: Any, limits: Limits) -> tuple[str, int]:
    if not isinstance(answer, dict) or set(answer) != {"id", "label"}:
        raise InputError(f"answer {number} must have id and label, and nothing else; send {FEEDBACK}")
    row_id, label = answer["id"], answer["label"]
    if type(label) is not int or label not in (0, 1):
        raise InputError(f"answer {number}: the label is {label!r}; give 0 for normal or 1 for anomaly")
    row_id = str(row_id) if type(row_id) is int else row_id
    return _text(row_id, f"the id of answer {number}", limits), label


def _text(value: Any, what: str, limits: Limits) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{what} is {value!r}; give a text that is not empty")
    limits.check_text(value, what)
    if any(unicodedata.category(sign) in ("Cc", "Zl", "Zp") for sign in value):
        raise InputError(f"{what} holds a line break or another control character; leave it out")
    return value
