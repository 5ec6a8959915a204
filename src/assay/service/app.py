"""The Bento of a scorer: the application of `assay.service.routes`, mounted in a service of BentoML.

BentoML imports this module from the installed package when it builds a Bento, and from the Bento's source when it
serves one. The scorer's tag is the argument ``scorer`` of the build. BentoML records it in bento.yaml and sets it again
before it imports this module, so serving needs no settings.
"""

from __future__ import annotations

from pathlib import Path

import bentoml
from pydantic import BaseModel

from assay.scorer.loading import load_scorer
from assay.service.routes import make_application, set_scorer


class Arguments(BaseModel):
    """Arguments of the build: ``bentoml build --arg scorer=NAME:VERSION``."""

    scorer: str


application = make_application()


@bentoml.service(
    name="assay",
    workers=1,
    envs=[{"name": "OMP_NUM_THREADS", "value": "1"}, {"name": "OPENBLAS_NUM_THREADS", "value": "1"}],
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
@bentoml.asgi_app(application, path="/")
class ScoringService:
    """Scores rows and flags them by their conformal p-values."""

    model = bentoml.models.BentoModel(bentoml.use_arguments(Arguments).scorer)

    def __init__(self) -> None:
        set_scorer(application, load_scorer(Path(self.model.path)))
