"""Settings: what params.yaml may say, and how it is told what it may not."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from assay.errors import ConfigError
from assay.names import Choice
from assay.project.config import parse_config, read_params

GOOD: dict[str, Any] = {
    "dataset": "clinic",
    "datasets": ["ward", "clinic"],
    "eps": 0.05,
    "split": {"seed": 0},
    "contaminate": {"levels": [0, 0.1], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 2, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "promise": "average", "seed": 4},
    "detectors": {"knn": {}, "isolation_forest": {}, "mcd": {}},
    "adapters": ["none", "cadet"],
    "select": {"seed": 3, "without_labels": "probes"},
    "run": {"cells_at_once": 2, "runner": "local", "address": ""},
}
ABSENT = object()


def changed(path: str, value: Any) -> dict[str, Any]:
    """The good settings with one of them changed, or taken away."""
    raw = copy.deepcopy(GOOD)
    *sections, name = path.split(".")
    inner = raw
    for section in sections:
        inner = inner[section]
    if value is ABSENT:
        del inner[name]
    else:
        inner[name] = value
    return raw


def detectors(**entries: Any) -> tuple[Choice, ...]:
    """The detectors beside the three of every leaderboard."""
    found = parse_config(changed("detectors", {**entries, "knn": {}, "isolation_forest": {}, "mcd": {}})).detectors
    assert [choice.label for choice in found[-3:]] == ["knn", "isolation_forest", "mcd"]
    return found[:-3]


def test_good_settings_come_through() -> None:
    config = parse_config(GOOD)
    assert (config.dataset, config.datasets, config.eps) == ("clinic", ("ward", "clinic"), 0.05)
    names = ("split", "contaminate", "train", "calibrate", "select", "run")
    assert config.sections == {name: GOOD[name] for name in names}
    assert [choice.name for choice in config.detectors] == ["knn", "isolation_forest", "mcd"]
    assert [choice.name for choice in config.adapters] == ["none", "cadet"]


def test_the_project_s_own_settings_are_good() -> None:
    raw = read_params(Path(__file__).parents[3] / "params.yaml")
    names = [choice.name for choice in parse_config(raw).detectors]
    assert {"knn", "isolation_forest", "mcd"} <= set(names)


def test_reading_changes_nothing(tmp_path: Path) -> None:
    """What DVC compares is what stands in the file, without anything appended."""
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(GOOD))
    assert read_params(path) == GOOD


@pytest.mark.parametrize("name", ["knn", "isolation_forest", "mcd"])
def test_the_three_plain_detectors_are_in_every_comparison(name: str) -> None:
    raw = changed("detectors", {**GOOD["detectors"], "near": {"detector": "knn"}})
    del raw["detectors"][name]
    if name == "knn":
        assert parse_config(raw).detectors[-1] == Choice("knn", "near")
        del raw["detectors"]["near"]
    with pytest.raises(ConfigError, match=f"detectors lacks {name}, .* add a line `{name}: {{}}`"):
        parse_config(raw)


def test_labels_kinds_and_parameters_are_kept_in_order() -> None:
    found = detectors(
        **{"knn-3": {"detector": "knn", "n_neighbors": 3}, "vae": None, "svm": {"detector": "sklearn.svm.OneClassSVM"}}
    )
    assert found == (
        Choice("knn", "knn-3", {"n_neighbors": 3}),
        Choice("vae", "vae"),
        Choice("sklearn.svm.OneClassSVM", "svm"),
    )


def test_a_wrapper_has_a_parameter_of_the_name_detector() -> None:
    inner = {"detector": {"knn": {"n_neighbors": 3}}}
    assert detectors(
        far={"detector": {"rescaled": inner}}, rescaled={"scaler": "minmax"}, trimmed={"detector": {"trimmed": None}}
    ) == (
        Choice("rescaled", "far", inner),
        Choice("rescaled", "rescaled", {"scaler": "minmax"}),
        Choice("trimmed", "trimmed"),
    )


def test_parsing_leaves_the_given_settings_alone() -> None:
    raw = changed("detectors", {**GOOD["detectors"], "near": {"detector": "knn"}})
    before = copy.deepcopy(raw)
    parse_config(raw)
    assert raw == before


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({}, "must be a mapping of labels"),
        (None, "must be a mapping of labels"),
        ("knn", "must be a mapping of labels"),
        (["knn"], "is a list, as in projects of earlier versions of Assay; run `assay migrate`"),
        ({"near": 3}, "near must be {detector: KIND, parameter: value}; got 3"),
        ({"near": [1]}, "near must be {detector: KIND"),
        ({"near": {3: 4}}, "near must be {detector: KIND"),
        ({"near": {"detector": 3}}, "near.detector must be the name of a detector"),
        ({"near": {"detector": {"knn": {}}, "n_neighbors": 3}}, "near.detector must be the name of a detector"),
        ({"near": {"detector": {"knn": 3}}}, "near.detector must be the name of a detector"),
        ({3: {}}, "label 3 is not allowed"),
        ({"a/b": {}}, "label 'a/b'"),
        ({"a+b": {}}, "label 'a+b'"),
        ({"a.b": {}}, "label 'a.b'"),
        ({"..": {}}, "label '..'"),
        ({"a--b": {}}, "label 'a--b'"),
        ({"": {}}, "label ''"),
        ({"scaler": {"detector": "knn"}}, "label 'scaler'"),
    ],
)
def test_a_wrong_detector_is_named(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"params\.yaml: detectors.*{re.escape(words)}"):
        parse_config(changed("detectors", value))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (None, "must be a list of names"),
        ("clinic", "must be a list of names"),
        ([], "lacks 'clinic', the current dataset"),
        (["clinic", "clinic"], "'clinic' occurs twice"),
        (["clinic", "a--b"], "is 'a--b'"),
        (["clinic", "a.b"], "is 'a.b'"),
        (["clinic", 3], "is 3"),
    ],
)
def test_wrong_datasets_are_named(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"params\.yaml: datasets.*{re.escape(words)}"):
        parse_config(changed("datasets", value))


def test_one_adapter_may_stand_twice_under_two_labels() -> None:
    raw = changed("adapters", ["cadet", {"cadet": {"prior_weight": 0.5, "label": "cadet-prior_2"}}])
    assert [(c.label, c.params) for c in parse_config(raw).adapters] == [
        ("cadet", {}),
        ("cadet-prior_2", {"prior_weight": 0.5}),
    ]


@pytest.mark.parametrize("eps", [0.001, 0.05, 0.999, 5e-324, np.nextafter(1, 0), Fraction(1, 3), np.float32(0.5)])
def test_eps_between_nought_and_one(eps: float) -> None:
    read = parse_config(changed("eps", eps)).eps
    assert (read, type(read)) == (float(eps), float)


SETTINGS = (
    "dataset",
    "datasets",
    "eps",
    "split",
    "contaminate",
    "train",
    "calibrate",
    "detectors",
    "adapters",
    "select",
)
INNER = (
    "split.seed",
    "contaminate.levels",
    "contaminate.source",
    "contaminate.labelled",
    "contaminate.seed",
    "train.seed",
    "train.device",
    "calibrate.within",
    "calibrate.ties",
    "calibrate.seed",
)


def test_as_many_cells_at_once_as_cores() -> None:
    assert parse_config(changed("run.cells_at_once", "auto")).sections["run"]["cells_at_once"] == "auto"


@pytest.mark.parametrize("path", [*SETTINGS, *INNER, "select.seed", "run.cells_at_once"])
def test_a_missing_setting_is_named(path: str) -> None:
    *sections, name = path.split(".")
    with pytest.raises(ConfigError, match=rf"params\.yaml{''.join(f': {s}' for s in sections)} lacks .*'{name}'"):
        parse_config(changed(path, ABSENT))


@pytest.mark.parametrize("path", ["epsilon", "split.seeds", "contaminate.level", "train.gpu", "select.eps"])
def test_an_unknown_setting_is_named(path: str) -> None:
    *sections, name = path.split(".")
    with pytest.raises(ConfigError, match=rf"params\.yaml{''.join(f': {s}' for s in sections)}: unknown .*'{name}'"):
        parse_config(changed(path, 1))


@pytest.mark.parametrize("raw", [None, [], "dataset: digits", 3])
def test_settings_must_be_a_mapping(raw: object) -> None:
    with pytest.raises(ConfigError, match="must be a mapping"):
        parse_config(raw)


@pytest.mark.parametrize("section", ["split", "contaminate", "train", "select"])
@pytest.mark.parametrize("value", [None, 0, [0], "seed"])
def test_a_section_must_be_a_mapping(section: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{section} must be a mapping"):
        parse_config(changed(section, value))


@pytest.mark.parametrize("section", ["split", "contaminate", "train", "select"])
@pytest.mark.parametrize("seed", [-1, 0.5, "1", True, None])
def test_a_seed_must_be_a_whole_number(section: str, seed: object) -> None:
    with pytest.raises(ConfigError, match=f"{section}.seed is {re.escape(repr(seed))}"):
        parse_config(changed(f"{section}.seed", seed))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("dataset", "", "dataset is ''"),
        ("dataset", None, "dataset is None"),
        ("dataset", 7, "dataset is 7"),
        ("eps", 0, "eps is 0"),
        ("eps", 1, "eps is 1"),
        ("eps", -0.05, "eps is -0.05"),
        ("eps", float("inf"), "eps is inf"),
        ("eps", 10**400, "eps is 1000"),
        ("eps", Fraction(1, 10**400), "eps is Fraction"),
        ("eps", [0.05], "eps is [0.05]"),
        ("eps", np.array(0.05), "eps is array"),
        ("eps", np.bool_(True), "eps is np.True_"),
        ("eps", True, "eps is True"),
        ("eps", "0.05", "eps is '0.05'"),
        ("eps", None, "eps is None"),
        ("eps", float("nan"), "eps is nan"),
        ("train.device", "tpu", "train.device is 'tpu'"),
        ("run.cells_at_once", 0, "run.cells_at_once is 0"),
        ("run.cells_at_once", "all", "run.cells_at_once is 'all'"),
        ("train.device", None, "train.device is None"),
        (
            "select.without_labels",
            "lof",
            "select.without_labels is 'lof'; give probes, or the label of a listed detector",
        ),
        ("select.without_labels", None, "select.without_labels is None"),
    ],
)
def test_a_wrong_value_is_named(path: str, value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        parse_config(changed(path, value))


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([], "must be a list of names"),
        (None, "must be a list of names"),
        ("knn", "must be a list of names"),
        ({"knn": {}}, "must be a list of names"),
        (["knn", 3], "3 must be a name"),
        (["knn", None], "None must be a name"),
        ([["knn"]], "['knn'] must be a name"),
        ([{"knn": {}, "mcd": {}}], "must be a name"),
        ([{"knn": 5}], "{'knn': 5} must be a name"),
        ([{"knn": {"label": 5}}], "must be a name"),
        ([{3: {}}], "{3: {}} must be a name"),
        (["knn", "knn"], "'knn' occurs twice"),
        (["mcd", {"knn": {"label": "mcd"}}], "'mcd' occurs twice"),
        ([{"knn": {"label": "a/b"}}], "label 'a/b'"),
        ([{"knn": {"label": "a+b"}}], "label 'a+b'"),
        ([{"knn": {"label": "a.b"}}], "label 'a.b'"),
        ([{"knn": {"label": ".."}}], "label '..'"),
        ([{"knn": {"label": "a b"}}], "label 'a b'"),
        ([{"knn": {"label": ""}}], "label ''"),
    ],
)
def test_a_wrong_adapter_is_named(value: object, words: str) -> None:
    with pytest.raises(ConfigError, match=rf"params\.yaml: adapters.*{re.escape(words)}"):
        parse_config(changed("adapters", value))


@pytest.mark.parametrize(
    ("prepare", "words"),
    [
        (lambda path: None, "is missing; run assay inside a project"),
        (lambda path: path.mkdir(), "is missing; run assay inside a project"),
        (lambda path: path.write_text("dataset: ["), "is not valid YAML"),
        (lambda path: path.write_text("[" * 2000), "is not valid YAML: it is nested too deeply"),
        (lambda path: path.write_text("- " * 2000), "is not valid YAML: it is nested too deeply"),
        (lambda path: path.write_text("dataset:\tdigits"), "is not valid YAML"),
        (lambda path: path.write_text("dataset: !!python/object:os.system {}"), "is not valid YAML"),
        (lambda path: path.write_text("eps: " + "9" * 5000), "is not valid YAML: Exceeds the limit"),
        (lambda path: path.write_text("dataset: 2026-13-13"), "is not valid YAML: month must be in 1..12"),
        (lambda path: path.write_text("eps: !!bool foo"), "is not valid YAML: a value is not of the type"),
        (lambda path: path.write_text("eps: !!float ''"), "is not valid YAML: a value is not of the type"),
        (lambda path: path.write_text("eps: !!timestamp foo"), "is not valid YAML: a value is not of the type"),
        (lambda path: path.write_text(""), "must be a mapping"),
        (lambda path: path.write_text("dataset: digits"), "lacks the setting 'datasets'"),
    ],
)
def test_a_file_that_cannot_be_used(tmp_path: Path, prepare: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "params.yaml"
    prepare(path)
    with pytest.raises(ConfigError, match=rf"params\.yaml .*{words}|params\.yaml {words}"):
        read_params(path)


@pytest.mark.parametrize("key", ["eps", "seed", "knn"])
def test_a_key_that_is_given_twice_is_named_with_its_line(key: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    lines = yaml.safe_dump(GOOD).splitlines()
    last = max(number for number, line in enumerate(lines) if line.strip().startswith(f"{key}:"))
    lines.insert(last, lines[last])
    path.write_text("\n".join(lines))
    with pytest.raises(ConfigError, match=f"line {last + 2}: the key '{key}' is given twice"):
        read_params(path)


def test_a_number_that_yaml_takes_for_a_text_is_shown_as_a_number() -> None:
    assert yaml.safe_load("eps: 1e-2") == {"eps": "1e-2"}
    for text, written in (("1e-2", "0.01"), ("1e-5", "1.0e-05"), ("0.05", "0.05")):
        with pytest.raises(ConfigError, match=f"eps is {text!r}; .* it is a text now: write {written}$"):
            parse_config(changed("eps", text))
        assert yaml.safe_load(written) == float(text)
    with pytest.raises(ConfigError, match=r"\(for instance 0.05\)$"):
        parse_config(changed("eps", "2"))
