"""The code of a stage: what its verb imports and can change a result, and nothing else."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.conftest import QUICK

from assay.project.installed import stage_code
from assay.project.layout import Project
from assay.project.modules import code_digest, code_of, digest_in

FILES = {
    "assay/__init__.py": "import assay.never",
    "assay/verbs/__init__.py": '''
        """All verbs."""
        from assay.verbs.training import train
        from assay.verbs.other import other
        ''',
    "assay/verbs/training.py": '''
        """Train."""
        from __future__ import annotations
        from typing import TYPE_CHECKING
        import numpy as np
        if TYPE_CHECKING:
            from assay.annotations import Thing
        def train(kind):
            """Train one."""
            from assay.registry import make
            from assay.verbs import other
            return make(kind)
        ''',
    "assay/verbs/other.py": "def other(): import torch",
    "assay/annotations.py": "import assay.never",
    "assay/never.py": "import scipy",
    "assay/registry.py": """
        OUTSIDE = "external"
        PARTS: dict[str, str] = {
            "near": "assay.parts.near:Near",
            "wrapped": "assay.parts.wrapped:Wrapped",
            "far": "assay.parts.far:Far",
        }
        ALL = {**PARTS, OUTSIDE: "assay.parts.external:External"}
        def make(kind): return PARTS[kind]
        """,
    "assay/parts/__init__.py": "",
    "assay/parts/near.py": "class Near:\n    kind: ClassVar[str] = 'far'\n",
    "assay/parts/far.py": "class Far: pass\n",
    "assay/parts/wrapped.py": "class Wrapped:\n    inner: str = 'far'\n",
    "assay/parts/external.py": "class External: pass\n",
    "assay/glue.py": "def arguments(): return 1\n\ndef others(): return 2\n",
}
ROOTS = ("assay.verbs.training", "assay.glue:arguments")
NEAR = {
    "assay.verbs.training",
    "assay.verbs.other",
    "assay.registry",
    "assay.registry:near",
    "assay.parts.near",
    "assay.glue:arguments",
    "distributions/numpy",
    "distributions/torch",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    return tmp_path


def code(source: Path, *names: str) -> dict[str, str]:
    return code_of(source, ROOTS, names)


def test_it_is_what_the_verb_imports_and_the_parts_that_are_named(source: Path) -> None:
    found = code(source, "near")
    assert set(found) == NEAR
    assert found["distributions/numpy"] == version("numpy")
    assert "+" not in found["distributions/torch"]
    assert all(found[name] == code_digest(source, name) for name in found if not name.startswith("distributions/"))


def test_a_part_that_is_a_default_of_another_one_counts(source: Path) -> None:
    assert {"assay.parts.wrapped", "assay.parts.far"} <= set(code(source, "wrapped"))
    assert "assay.parts.far" not in code_of(source, ROOTS, ["wrapped", "near"], given=["inner"])


@pytest.mark.parametrize(
    ("params", "uses_knn"),
    [
        ({}, True),
        ({"detector": "reach"}, False),
        ({"detector": {"reach": {"share": 0.1}}}, False),
        ({"detector": "subsampled"}, True),
        ({"detector": {"subsampled": None}}, True),
        ({"detector": {"subsampled": {"n_members": 3}}}, True),
        ({"detector": {"subsampled": {"detector": "reach"}}}, False),
        ({"detector": {"subsampled": {"detector": "knn"}}}, True),
        ({"detector": {"blend": {"of": ["reach", {"rescaled": {"detector": "reach"}}]}}}, False),
        ({"detector": {"blend": {"of": ["reach", {"rescaled": {}}]}}}, True),
        ({"detector": {"blend": {"of": ["reach", "knn"]}}}, True),
        ({"detector": {"blend": {"of": "reach"}}}, True),
    ],
)
def test_a_cell_that_names_the_detector_it_wraps_does_not_depend_on_the_default(
    tmp_path: Path, params: dict[str, Any], uses_knn: bool
) -> None:
    settings = yaml.safe_load(QUICK)
    settings["detectors"]["wrapped"] = {"detector": {"rescaled": params}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    shutil.copy(Path(__file__).parents[3] / "dvc.yaml", tmp_path)
    project = Project(tmp_path)
    code = stage_code(project, project.stage(f"train@{project.dataset}--wrapped"))
    assert ("assay.detectors.baselines.knn" in code) is uses_knn


def test_all_registered_parts_are_everything(source: Path) -> None:
    parts = {name for name in code_of(source, ROOTS, None) if name.startswith("assay.parts")}
    assert parts == {f"assay.parts.{name}" for name in ("near", "far", "wrapped", "external")}


def test_a_path_is_the_part_for_detectors_from_elsewhere_and_its_distribution() -> None:
    source = Path(__file__).parents[3] / "src"
    found = code_of(source, ["assay.pipeline.training"], ["sklearn.svm.OneClassSVM"])
    assert {"assay.detectors.plugged.external", "distributions/scikit-learn", "distributions/scipy"} <= set(found)
    assert "assay.detectors.plugged.external" not in code_of(source, ["assay.pipeline.training"], ["knn"])
    split = code_of(source, ["assay.pipeline.preparing"], ["sklearn.svm.OneClassSVM"])
    assert split == code_of(source, ["assay.pipeline.preparing"], ["knn"])


def add(name: str, text: str) -> Callable[[Path], None]:
    return lambda source: edit(source / name, "", text)


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1) if old else text + new)


@pytest.mark.parametrize(
    "change",
    [
        add("assay/verbs/training.py", "\n# A comment.\n"),
        lambda source: edit(source / "assay/verbs/training.py", "Train one.", "Train another one."),
        lambda source: edit(source / "assay/verbs/training.py", "return make(kind)", "return make(\n        kind)"),
        lambda source: edit(source / "assay/verbs/training.py", "import Thing", "import Things"),
        lambda source: edit(source / "assay/registry.py", '"far":', '"new": "assay.parts.new:New", "far":'),
        add("assay/verbs/__init__.py", "\nfrom assay.never import x\n"),
        add("assay/parts/far.py", "x = 1\n"),
        add("assay/never.py", "x = 1\n"),
        lambda source: edit(source / "assay/glue.py", "return 2", "return 3"),
    ],
    ids=[
        "comment",
        "docstring",
        "layout",
        "annotation",
        "registry",
        "init",
        "other part",
        "not imported",
        "other glue",
    ],
)
def test_what_can_change_no_result_changes_no_code(source: Path, change: Callable[[Path], None]) -> None:
    before = code(source, "near")
    change(source)
    assert code(source, "near") == before


@pytest.mark.parametrize(
    "change",
    [
        add("assay/parts/near.py", "x = 1\n"),
        add("assay/verbs/other.py", "\nx = 1\n"),
        lambda source: edit(source / "assay/registry.py", "near:Near", "near:Nearest"),
        lambda source: edit(source / "assay/registry.py", "return PARTS", "return ALL"),
        lambda source: edit(source / "assay/glue.py", "return 1", "return 3"),
        lambda source: (source / "assay/parts/near.py").unlink(),
        lambda source: (source / "assay/parts/near.py").write_text("this is not Python"),
        add("assay/parts/near.py", "import pandas\n"),
    ],
    ids=["part", "function", "own entry", "registry", "glue", "lost", "broken", "import"],
)
def test_what_can_change_a_result_changes_the_code(source: Path, change: Callable[[Path], None]) -> None:
    before = code(source, "near")
    change(source)
    assert code(source, "near") != before


def test_a_recorded_digest_is_found_in_an_old_file(source: Path) -> None:
    found = code(source, "near")
    content = (source / "assay/registry.py").read_bytes()
    assert digest_in(content) == found["assay.registry"]
    assert digest_in(content, "near") == found["assay.registry:near"]
    assert digest_in(content, "gone") == ""
    assert digest_in((source / "assay/glue.py").read_bytes() + b"# more", "arguments") == found["assay.glue:arguments"]
