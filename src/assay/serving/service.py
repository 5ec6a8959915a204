"""The HTTP service of one packaged scorer: POST /score and POST /info beside BentoML's own endpoints.

BentoML imports this module: from the installed package while a Bento is built, and from the Bento's own
source when it is served. The scorer's tag is the argument ``scorer`` of the build; BentoML records it in
bento.yaml and hands it back before it imports this module again, so that nothing has to be set to serve.
"""

from __future__ import annotations

import json
import math
from itertools import chain
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, PrivateAttr
from starlette.requests import Request
from starlette.responses import JSONResponse

from assay.calibration.conformal import check_eps
from assay.errors import AssayError, InputError
from assay.serving.scorer import Scorer, column_order, load_scorer

BODY = '{"columns": [names], "rows": [[numbers], ...], "eps": number (optional)}'
JSON_WORDS = {
    str: "a string",
    bool: "true or false",
    type(None): "null",
    list: "a list",
    dict: "an object",
    float: "a number",
}


class Arguments(BaseModel):
    """Arguments of the build: ``bentoml build --arg scorer=NAME:VERSION``."""

    scorer: str


class RawBody(bentoml.IODescriptor):  # type: ignore[misc]
    """Any body."""

    # Kept as it came: BentoML would log a traceback for a body that pydantic refuses, and name no row.
    _body: bytes = PrivateAttr(b"")

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> RawBody:
        """Keep the bytes, whatever their content type; `read_body` and `read_rows` check them."""
        received = cls.model_construct()
        received._body = await request.body()
        return received  # type: ignore[no-any-return]


class ScoreRequest(RawBody):
    """Rows to be scored. The fields serve the API documentation; `read_body` and `read_rows` check them."""

    columns: list[str] = Field(description="every column of the scorer once, in any order")
    rows: list[list[float]] = Field(description="one list of finite numbers for each row, in the order of `columns`")
    eps: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="target false-positive rate; left out: the scorer's own (see /info)",
    )


class Result(BaseModel):
    """What is said of one row."""

    score: float | None = Field(description="higher = more anomalous; float32; null where it is beyond float32")
    p_value: float = Field(description="conformal p-value; the row is flagged where p_value <= eps")
    flagged: bool


class ScoreAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """Answer of /score; ``note`` is there only where something should be known about it."""

    results: list[Result]
    eps: float
    model_version: str
    data_version: str
    lineage_root: str
    note: str = ""


class InfoAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """Answer of /info: what is deployed here."""

    name: str
    columns: list[str]
    eps: float
    smallest_eps: float = Field(description="below it nothing can be flagged")
    detector: str
    adapter: str
    model_version: str
    data_version: str
    lineage_root: str


@bentoml.service(
    name="assay",
    workers=1,
    envs=[{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "OPENBLAS_NUM_THREADS", "value": "1"}],
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class ScoringService:
    """Scores rows and flags those whose conformal p-value is at most eps."""

    model = bentoml.models.BentoModel(bentoml.use_arguments(Arguments).scorer)

    def __init__(self) -> None:
        self.scorer = load_scorer(Path(self.model.path))

    @bentoml.api(output_spec=ScoreAnswer)  # type: ignore[untyped-decorator]
    def score(self, request: ScoreRequest, /) -> JSONResponse:
        """Score rows; a body that does not fit is answered by status 400 and {"error": what is wrong}."""
        try:
            content = read_body(request._body)
            eps = read_eps(content, self.scorer.head["eps"])
            rows = read_rows(content, self.scorer.columns)
            return JSONResponse(answer(self.scorer, rows, eps))
        except AssayError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    @bentoml.api(output_spec=InfoAnswer)  # type: ignore[untyped-decorator]
    def info(self, request: RawBody, /) -> JSONResponse:
        """Say what is deployed; the body of the request is not read."""
        content = {
            "name": self.scorer.name,
            "columns": self.scorer.columns,
            "eps": self.scorer.head["eps"],
            "smallest_eps": self.scorer.calibrator.smallest_eps,
            "detector": self.scorer.head["candidate"]["detector"],
            "adapter": self.scorer.head["candidate"]["adapter"],
        }
        return JSONResponse(content | versions(self.scorer))


def versions(scorer: Scorer) -> dict[str, str]:
    """Return what an answer says about where it comes from."""
    lineage = scorer.head["lineage"]
    return {
        "model_version": scorer.version,
        "data_version": lineage["data_version"],
        "lineage_root": lineage["root"],
    }


def answer(scorer: Scorer, rows: NDArray[np.float64], eps: float) -> dict[str, Any]:
    """Score rows of shape (n, d) and return the body of the answer.

    Raises
    ------
    InputError
        A value is not finite or does not fit float32.
    """
    scores = scorer.decision_function(rows) if len(rows) else np.empty(0, dtype=np.float32)
    decided = zip(
        scores.tolist(),
        scorer.calibrator.p_values(scores).tolist(),
        scorer.calibrator.predict(scores, eps).tolist(),
        strict=True,
    )
    results = [{"score": s if math.isfinite(s) else None, "p_value": p, "flagged": f} for s, p, f in decided]
    return {"results": results, "eps": eps, **versions(scorer), **note(scorer, eps)}


def note(scorer: Scorer, eps: float) -> dict[str, str]:
    """Return a note where nothing can be flagged at `eps`, else nothing."""
    if eps >= (smallest := scorer.calibrator.smallest_eps):
        return {}
    return {"note": f"eps is {eps}: no row can be flagged below eps = {smallest}, the smallest of this scorer"}


def read_body(body: bytes) -> dict[str, Any]:
    """Parse the body of a request to /score; every number becomes a float.

    Raises
    ------
    InputError
        It is not a JSON object, or a key is missing or unknown.
    """
    try:
        content = json.loads(body, parse_int=float)
    except (ValueError, RecursionError) as error:
        raise InputError(f"the body is not JSON ({error}); send {BODY}") from error
    if not isinstance(content, dict):
        raise InputError(f"the body is {JSON_WORDS[type(content)]}; send an object: {BODY}")
    if unknown := sorted(content.keys() - {"columns", "rows", "eps"}):
        raise InputError(f"unknown key {unknown[0]!r}; send {BODY}")
    if missing := [key for key in ("columns", "rows") if key not in content]:
        raise InputError(f"key {missing[0]!r} is missing; send {BODY}")
    return content


def read_eps(content: dict[str, Any], default: float) -> float:
    """Return the eps of a request, or the scorer's own.

    Raises
    ------
    InputError, ConfigError
        It is not a number between 0 and 1.
    """
    eps = default if content.get("eps") is None else content["eps"]
    if not isinstance(eps, float):
        raise InputError(f"eps is {JSON_WORDS[type(eps)]}; give a number between 0 and 1, or leave it out")
    return check_eps(eps)


def read_rows(content: dict[str, Any], columns: tuple[str, ...]) -> NDArray[np.float64]:
    """Return the rows of a request, float64 of shape (n, d), in the order of the scorer's columns.

    Raises
    ------
    InputError
        Unknown, missing or doubled columns; rows of another length; a value that is no number.
    """
    given, rows = content["columns"], content["rows"]
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError("columns must be a list of names; POST /info names this scorer's columns")
    order = column_order(columns, given)
    check_shape(rows, len(given))
    check_numbers(rows, given)
    return np.array(rows, dtype=np.float64).reshape(len(rows), len(columns))[:, order]


def check_shape(rows: object, width: int) -> None:
    """Raise `InputError` unless `rows` is a list of lists of `width` values, naming the first bad row."""
    wanted = f"every row must be a list of {width} numbers, one for each column"
    if not isinstance(rows, list):
        raise InputError(f"rows is {JSON_WORDS[type(rows)]}; give a list of rows: {wanted}")
    for number, row in enumerate(rows):
        if not isinstance(row, list):
            raise InputError(f"row {number} is {JSON_WORDS[type(row)]}; {wanted}")
        if len(row) != width:
            raise InputError(f"row {number} has length {len(row)}; {wanted}")


def check_numbers(rows: list[list[Any]], columns: list[str]) -> None:
    """Raise `InputError` at the first value that is not a JSON number."""
    if set(map(type, chain.from_iterable(rows))) <= {float}:
        return
    for number, row in enumerate(rows):
        for name, value in zip(columns, row, strict=True):
            if not isinstance(value, float):
                what = JSON_WORDS[type(value)]
                raise InputError(f"row {number}, column {name!r} is {what}; every value must be a finite number")
