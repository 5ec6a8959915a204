"""Settings of earlier versions are rewritten in the present form, once, with what people wrote in them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from tests.conftest import ROOT

from assay.errors import ConfigError
from assay.names import Choice
from assay.project.former_settings import migrate_settings
from assay.project.layout import Project

OLD = """\
# My settings.
dataset: machines  # the plant in the north
eps: 0.1
split: {seed: 0}
contaminate: {levels: [0, 0.05], source: auto, labelled: 0, seed: 1}
train: {seed: 0, device: cpu}
calibrate: {within: all, ties: counted, seed: 2}

# What we compare.
detectors:
  # The network comes first.
  - autoencoder:  # small
      epochs: 5  # enough
      members: 2
  - kde  # slow
  # Twice, with other neighbours.
  - knn: {n_neighbors: 3, label: knn-3}
  - knn
  - rescaled: {detector: {lof: {n_neighbors: 10}}, label: lof-minmax}
  - trimmed: {detector: knn}
  - sklearn.svm.OneClassSVM: {nu: 0.1}  # from elsewhere
adapters: [none, cadet]
select: {seed: 0}
"""
NEW = [
    Choice("autoencoder", "autoencoder", {"epochs": 5, "members": 2}),
    Choice("kde", "kde"),
    Choice("knn", "knn-3", {"n_neighbors": 3}),
    Choice("knn", "knn"),
    Choice("rescaled", "lof-minmax", {"detector": {"lof": {"n_neighbors": 10}}}),
    Choice("trimmed", "trimmed", {"detector": "knn"}),
    Choice("sklearn.svm.OneClassSVM", "OneClassSVM", {"nu": 0.1}),
    Choice("isolation_forest", "isolation_forest"),
    Choice("mcd", "mcd"),
]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project that an earlier version made and ran."""
    shutil.unpack_archive(ROOT / "tests/frozen/project-2.tar.xz", tmp_path)
    (tmp_path / "params.yaml").write_text(OLD)
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    return tmp_path


def files(root: Path) -> dict[str, bytes]:
    found = [path for path in root.rglob("*") if path.is_file() and not {".assay", ".git"} & {*path.parts}]
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in found}


def test_it_says_what_to_do_before(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"detectors is a list, .* run `assay migrate`"):
        Project(root).config  # noqa: B018
    shutil.copy(ROOT / "params.yaml", root)
    with pytest.raises(ConfigError, match=r"dvc\.yaml: .* run `assay migrate`"):
        Project(root).stages  # noqa: B018


def test_the_settings_mean_the_same_and_keep_their_comments(root: Path) -> None:
    told = migrate_settings(root)
    assert len(told) == 6
    assert all(sentence.endswith(".") for sentence in told)
    config = Project(root).config
    assert list(config.detectors) == NEW
    assert (config.dataset, config.datasets) == ("machines", ("machines",))
    text = (root / "params.yaml").read_text()
    for line in OLD.splitlines():
        if "#" in line:
            assert line.partition("#")[2] in text
    lines = [line.strip() for line in text.splitlines()]
    assert lines[lines.index("detectors:") - 1] == "# What we compare."
    assert lines[lines.index("# Twice, with other neighbours.") + 1].startswith("knn-3:")
    assert "contaminate: {levels: [0, 0.05], source: auto, labelled: 0, seed: 1}" in lines


def test_a_second_time_changes_nothing(root: Path) -> None:
    migrate_settings(root)
    before = files(root)
    assert migrate_settings(root) == []
    assert files(root) == before


def test_data_outputs_and_records_stay_as_they_are(root: Path) -> None:
    before = files(root)
    migrate_settings(root)
    after = files(root)
    changed = {name for name in before if after.get(name) != before[name]}
    assert changed == {"params.yaml", "dvc.yaml", "dvc.lock", "flows/retrain.py", ".dvcignore"}
    assert set(after) - set(before) == {"cells.yaml", "assay.lock", "flows/retrain.old.py"}
    assert after["flows/retrain.old.py"] == before["flows/retrain.py"]


def test_dvc_reads_the_new_pipeline(root: Path) -> None:
    from tests.conftest import Checkout

    migrate_settings(root)
    done = Checkout(root).call("dvc", "stage", "list", "--name-only")
    assert done.stdout.split() == ["code", *Project(root).stages], done.stderr


def test_stages_of_one_s_own_are_kept(root: Path) -> None:
    path = root / "dvc.yaml"
    own = {
        "summarise": {
            "cmd": "assay stage summarise",
            "deps": ["work/${dataset}/evaluate", "src/assay/pipeline", "constraints.txt"],
            "outs": ["work/${dataset}/summarise"],
        },
        "export": {"cmd": "python export.py", "deps": ["work/${dataset}/evaluate"], "outs": ["export.csv"]},
    }
    content = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**content, "stages": {**content["stages"], **own}, "plots": [{"a.csv": {}}]}))
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["export"] = {"cmd": "python export.py"}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    assert "your own stages are kept: export, summarise" in " ".join(migrate_settings(root))
    found = yaml.safe_load(path.read_text())
    assert found["stages"]["export"] == own["export"]
    assert found["stages"]["summarise"] == {
        "foreach": "${datasets}",
        "do": {
            "cmd": "assay stage summarise@${item}",
            "deps": ["work/code/summarise/${item}", "work/${item}/evaluate"],
            "outs": ["work/${item}/summarise"],
        },
    }
    assert found["plots"] == [{"a.csv": {}}]
    assert yaml.safe_load((root / "dvc.lock").read_text())["stages"] == {"export": {"cmd": "python export.py"}}


def test_a_broken_file_is_named_and_nothing_is_written(root: Path) -> None:
    (root / "params.yaml").write_text("dataset: [")
    before = files(root)
    with pytest.raises(ConfigError, match=r"params\.yaml cannot be read"):
        migrate_settings(root)
    assert files(root) == before


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[none, auto]", ["none"]),
        ("[auto, cadet]", ["none", "cadet"]),
        ("\n  - auto: {label: by-itself}  # was good\n  - auto", ["none"]),
        ("[ares]", ["ares"]),
    ],
)
def test_none_takes_the_place_of_the_adapter_that_is_no_more(root: Path, before: str, after: list[str]) -> None:
    path = root / "params.yaml"
    path.write_text(path.read_text().replace("adapters: [none, cadet]", f"adapters: {before}"))
    told = migrate_settings(root)
    assert [choice.label for choice in Project(root).config.adapters] == after
    assert any("the adapter `auto` is no more" in sentence for sentence in told) is ("auto" in before)
    assert migrate_settings(root) == []


def test_a_setting_that_is_new_comes_to_its_section_and_comments_stay_where_they_are(tmp_path: Path) -> None:
    """The settings of today, but for the newest."""
    for name in ("params.yaml", "dvc.yaml", "flows/retrain.py", ".dvcignore", "cells.yaml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    present = (tmp_path / "params.yaml").read_text()
    lines = [line for line in present.splitlines() if line != "  promise: average"]
    (tmp_path / "params.yaml").write_text("\n".join([*lines, ""]))
    pipeline = (tmp_path / "dvc.yaml").read_text()
    former = pipeline.replace("        - work/${item}/split/pool\n", "")
    (tmp_path / "dvc.yaml").write_text(f"# mine\n{former}")
    sentences = migrate_settings(tmp_path)
    assert any("`calibrate.promise: average`" in sentence for sentence in sentences)
    assert any("select read other inputs" in sentence for sentence in sentences)
    assert (tmp_path / "params.yaml").read_text() == present
    assert (tmp_path / "dvc.yaml").read_text().startswith("# mine\n")
    assert yaml.safe_load((tmp_path / "dvc.yaml").read_text()) == yaml.safe_load(pipeline)
