"""Copy the top-level files of this repository to the templates of `assay init`."""

from __future__ import annotations

from pathlib import Path

from assay.parts import write_bytes
from assay.project.templates import COPIES, template_path

for name in COPIES:
    write_bytes(template_path(name), (Path(__file__).parents[4] / name).read_bytes())
