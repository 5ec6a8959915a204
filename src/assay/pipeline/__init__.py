"""The verbs of the pipeline, one function each, on files named by their arguments.

The Prefect flow, the DVC stages and ``assay stage`` all call these through `assay.project.stages`. What each
one may read is listed in docs/architecture.md; nothing here reaches for a file it was not given.
"""

from assay.pipeline.calibrating import calibrate
from assay.pipeline.evaluating import evaluate
from assay.pipeline.packaging import package
from assay.pipeline.preparing import contaminate, split, validate
from assay.pipeline.selecting import select
from assay.pipeline.training import train

__all__ = ["calibrate", "contaminate", "evaluate", "package", "select", "split", "train", "validate"]
