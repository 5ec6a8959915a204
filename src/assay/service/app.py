"""The HTTP service of one packaged scorer: POST /score and POST /info beside BentoML's own endpoints.

BentoML imports this module: from the installed package while a Bento is built, and from the Bento's own
source when it is served. The scorer's tag is the argument ``scorer`` of the build; BentoML records it in
bento.yaml and hands it back before it imports this module again, so that nothing has to be set to serve.
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from pydantic import BaseModel, Field, PrivateAttr
from starlette.requests import Request
from starlette.responses import JSONResponse

from assay.errors import AssayError
from assay.scorer.scorer import load_scorer
from assay.service.answers import answer, describe
from assay.service.requests import read_body, read_rows, read_share


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

    columns: list[str] = Field(description="every column of the scorer once, in any order (see /info)")
    rows: list[list[float | str]] = Field(
        description="one list of finite numbers for each row, in the order of `columns`; a category may be text"
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="target false-positive rate; left out: the scorer's own (see /info)",
    )
    fdr: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="flag so that of the flagged rows of this request at most this share is normal, on average "
        "(Benjamini-Hochberg); instead of eps",
    )


class Result(BaseModel):
    """What is said of one row."""

    score: float | None = Field(description="higher = more anomalous; float32; null where it is beyond float32")
    p_value: float = Field(description="conformal p-value; the row is flagged where p_value <= eps, without fdr")
    flagged: bool


class ScoreAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """Answer of /score; ``note`` is there only where something should be known about it."""

    results: list[Result]
    eps: float | None = Field(description="null where the request gave fdr")
    fdr: float | None = None
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
    n_calibration: int = Field(description="rows that p-values compare with")
    guarantee: str = Field(description="what p-values promise, and under which assumption")
    category_column: str | None = Field(description="a column to send besides, where rows compare within categories")
    categories: list[str] | None = Field(description="the categories that it knows, sorted; the first 100 of them")
    n_categories: int | None = Field(description="how many it knows; rows of any other are refused")
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
            eps, fdr = (read_share(content, key) for key in ("eps", "fdr"))
            rows, categories = read_rows(content, self.scorer.columns, self.scorer.category_column)
            return JSONResponse(answer(self.scorer, rows, categories, eps, fdr))
        except AssayError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    @bentoml.api(output_spec=InfoAnswer)  # type: ignore[untyped-decorator]
    def info(self, request: RawBody, /) -> JSONResponse:
        """Say what is deployed; the body of the request is not read."""
        return JSONResponse(describe(self.scorer))
