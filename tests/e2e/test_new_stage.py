"""A stage that is added as docs/extending.md says: both drivers run it, and the audit knows it."""

from __future__ import annotations

import json
import re
import shutil
import textwrap

import pytest
from tests.conftest import ROOT, Checkout

NAME = "breast_cancer"
SECTION = re.search(r"\n## A stage\n(.*?)(?=\n## |\Z)", (ROOT / "docs/extending.md").read_text(), re.DOTALL)
IMPORT = "from assay.pipeline.summarising import summarise\n"


def blocks() -> list[str]:
    """The indented blocks: the verb, its entry, its arguments, its part of dvc.yaml, and what is seen of it."""
    assert SECTION is not None
    blocks = re.findall(r"(?:^ {4}.*\n|^\n(?= {4}|\n+ {4}))+", SECTION.group(1), re.MULTILINE)
    return [textwrap.dedent(block).strip("\n") + "\n" for block in blocks]


@pytest.fixture
def extended(checkout: Checkout) -> Checkout:
    """A project with the stage, nothing run yet."""
    verb, entry, arguments, part, *_ = blocks()
    root = checkout.root
    (root / "src/assay/pipeline/summarising.py").write_text(verb)
    stages = root / "src/assay/project/stages.py"
    text = stages.read_text()
    place, first = '    "package": StageEntry(', "from assay.pipeline.progress import StageProgress\n"
    before = "STAGES: dict[str, StageEntry] ="
    assert text.count(place) == text.count(first) == text.count(before) == 1
    text = text.replace(place, textwrap.indent(entry, "    ") + place).replace(first, first + IMPORT)
    text = text.replace(before, f"{arguments}\n\n{before}")
    stages.write_text(text)
    pipeline = (root / "dvc.yaml").read_text()
    assert pipeline.count("\nstages:\n") == 1
    (root / "dvc.yaml").write_text(pipeline.replace("\nstages:\n", "\nstages:\n" + textwrap.indent(part, "  ")))
    return checkout


@pytest.mark.long
def test_a_new_stage_runs_by_both_drivers_and_is_audited(extended: Checkout) -> None:
    own = {"PYTHONPATH": str(extended.root / "src")}
    extended.assay("restore", **own)
    ran = extended.assay("run", **own)
    assert re.search(r"^summarise +\d", ran.stderr + ran.stdout, re.MULTILINE)
    folder = extended.root / "work" / NAME / "summarise"
    table = (folder / "summary.csv").read_text()
    evaluation = json.loads((extended.root / "work" / NAME / "evaluate/evaluation.json").read_text())
    assert len(table.splitlines()) == 1 + len(evaluation["candidates"])
    record = (folder / "record.json").read_bytes()
    assert json.loads(record)["inputs"][f"work/{NAME}/evaluate/record.json"]
    assert json.loads(extended.call("dvc", "status", "--json", **own).stdout) == {}

    shown = extended.assay("audit", "show", NAME, **own).stdout
    assert re.search(r"^Summary +ok ", shown, re.MULTILINE), shown
    assert "    files                 summary.csv\n    ran" in shown
    assert "reads                 evaluate: " in shown
    assert re.search(r"^ok +stage summarise$", extended.assay("audit", "verify", NAME, **own).stdout, re.MULTILINE)
    replayed = extended.assay("audit", "replay", NAME, **own).stdout
    assert re.search(r"^same bytes +stage summarise: 1 files$", replayed, re.MULTILINE)

    shutil.rmtree(folder)
    done = extended.call("dvc", "repro", **own)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (folder / "record.json").read_bytes() == record
    assert "nothing changed: every stage is fresh" in (again := extended.assay("run", **own)).stderr + again.stdout

    (folder / "summary.csv").write_text(table.replace("knn", "lof"))
    output = extended.assay("audit", "verify", NAME, code=1, **own).stdout
    assert re.search(r"^differs +stage summarise: .*summary.csv was changed$", output, re.MULTILINE)
