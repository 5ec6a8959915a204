"""The verbs of the pipeline, one function each, on files named by their arguments.

The Prefect flow, the DVC stages and ``assay stage`` call them through `assay.project.stages`. docs/architecture.md
lists what each may read. A verb reads only files that its arguments name.
"""

from assay.pipeline.calibrating import calibrate
from assay.pipeline.evaluating import evaluate
from assay.pipeline.packaging import package
from assay.pipeline.preparing import contaminate, split, validate
from assay.pipeline.selecting import select
from assay.pipeline.training import train

__all__ = ["calibrate", "contaminate", "evaluate", "package", "select", "split", "train", "validate"]
