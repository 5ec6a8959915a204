"""The HTTP service of one packaged scorer: POST /score and POST /info, in addition to BentoML's endpoints.

BentoML imports this module from the installed package when it builds a Bento, and from the Bento's source when it
serves one. The scorer's tag is the argument ``scorer`` of the build. BentoML records it in bento.yaml and sets it again
before it imports this module, so serving needs no settings.
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from pydantic import BaseModel, Field, PrivateAttr
from starlette.requests import Request
from starlette.responses import JSONResponse

from assay.errors import AssayError
from assay.scorer.scorer import load_scorer
from assay.service import page
from assay.service.answers import describe, score_answer
from assay.service.requests import read_body, read_ids, read_request_rows, read_share
from assay.service.spool import Spool

BANDS = (
    "lower and upper end of the false-positive rate of this one scorer at eps for 95 % of the draws of its calibration "
    'rows, by stratum or category, or "all"; null where no band is known, and without eps'
)


class Arguments(BaseModel):
    """Arguments of the build: ``bentoml build --arg scorer=NAME:VERSION``."""

    scorer: str


class RawBody(bentoml.IODescriptor):  # type: ignore[misc]
    """Any body."""

    # Not parsed by pydantic: for a body that it refuses, BentoML would log a traceback and name no row.
    _body: bytes = PrivateAttr(b"")

    @classmethod
    async def from_http_request(cls, request: Request, serde: object) -> RawBody:
        """Keep the bytes, for any content type; `read_body` and `read_request_rows` check them."""
        received = cls.model_construct()
        received._body = await request.body()
        return received  # type: ignore[no-any-return]


class ScoreRequest(RawBody):
    """Rows to score. The fields are for the API documentation; `read_body` and `read_request_rows` check them."""

    columns: list[str] = Field(description="every column of the scorer once, in any order (see /info)")
    rows: list[list[float | str | bool | None]] = Field(
        description="one list for each row, in the order of `columns`: finite numbers, texts where columns hold "
        "categories, null where a value is missing and its column may lack one (see /info)"
    )
    ids: list[str | float] | None = Field(
        default=None,
        description="a name for each row; where ties are randomised, a row with an id is ranked at random among equal "
        "calibration scores, always in the same way for the same id, and one without counts them as higher",
    )
    eps: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="target false-positive rate; by default the scorer's own (see /info)",
    )
    fdr: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="flag rows so that on average at most this share of the flagged rows of this request is normal "
        "(Benjamini-Hochberg); instead of eps",
    )


class RowResult(BaseModel):
    """The result of one row."""

    score: float | None = Field(description="higher = more anomalous; float32; null if it is beyond float32")
    p_value: float = Field(description="conformal p-value; without fdr the row is flagged if p_value <= eps")
    flagged: bool


class ScoreAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """Answer of /score; ``note`` is present only if rows were not, or cannot be, flagged, and says why."""

    results: list[RowResult]
    eps: float | None = Field(description="null if the request gave fdr")
    fdr: float | None = None
    fpr_bands: dict[str, list[float]] | None = Field(default=None, description=BANDS)
    model_version: str = Field(description="the scorer: the same version gives the same answers")
    statement: str = Field(description="where the scorer comes from; see `assay audit show`")
    data_version: str
    lineage_root: str
    note: str = ""


class InfoAnswer(bentoml.IODescriptor):  # type: ignore[misc]
    """Answer of /info: the deployed scorer."""

    name: str
    columns: list[str]
    columns_of_categories: list[str] = Field(description="columns that take text; a new text is a value of its own")
    columns_of_dates: list[str] = Field(description="columns that take ISO 8601 dates or times")
    columns_that_may_be_missing: list[str] = Field(description="columns that take null")
    eps: float
    smallest_eps: float = Field(description="below it nothing can be flagged")
    detector: str
    adapter: str
    n_calibration: int = Field(description="number of calibration rows")
    guarantee: str = Field(description="the guarantee of p-values and its assumption")
    unit: str | None = Field(description="what roles were assigned by: row, group, time, or group and time")
    fpr_bands: dict[str, list[float]] | None = Field(description=BANDS)
    category_column: str | None = Field(
        description="an additional column to send, if rows are compared within categories"
    )
    categories: list[str] | None = Field(description="the calibrated categories, sorted; at most the first 100")
    n_categories: int | None = Field(description="number of calibrated categories; rows of any other are refused")
    model_version: str = Field(description="the scorer: the same version gives the same answers")
    statement: str = Field(description="where the scorer comes from; see `assay audit show`")
    data_version: str
    lineage_root: str


@bentoml.service(
    name="assay",
    workers=1,
    envs=[{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "OPENBLAS_NUM_THREADS", "value": "1"}],
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(page.app, path="/")
class ScoringService:
    """Scores rows and flags them by their conformal p-values."""

    model = bentoml.models.BentoModel(bentoml.use_arguments(Arguments).scorer)

    def __init__(self) -> None:
        self.scorer = load_scorer(Path(self.model.path))
        self.scores = Spool.of(self.scorer)

    @bentoml.api(output_spec=ScoreAnswer)  # type: ignore[untyped-decorator]
    def score(self, request: ScoreRequest, /) -> JSONResponse:
        """Score rows; an invalid body gets status 400 and {"error": a sentence that says why}."""
        try:
            content = read_body(request._body)
            eps, fdr = (read_share(content, key) for key in ("eps", "fdr"))
            scorer = self.scorer
            of_text = (*scorer.vocabulary, *scorer.dates)
            rows, categories = read_request_rows(
                content, scorer.columns, scorer.category_column, of_text=of_text, imputed=scorer.imputed
            )
            row_ids = read_ids(content, len(rows))
            return JSONResponse(score_answer(self.scorer, rows, categories, eps, fdr, row_ids, self.scores.append))
        except AssayError as error:
            return JSONResponse({"error": str(error)}, status_code=400)

    @bentoml.api(output_spec=InfoAnswer)  # type: ignore[untyped-decorator]
    def info(self, request: RawBody, /) -> JSONResponse:
        """Describe the deployed scorer; the body of the request is not read."""
        return JSONResponse(describe(self.scorer))
