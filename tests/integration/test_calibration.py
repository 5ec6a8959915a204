"""How rows are compared, through the real stages: within categories and strata, over groups, weighted, over folds."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr

from assay.calibration.contaminated.label_trim import choose_questions, trim_report
from assay.data.answers import ensure_answers
from assay.data.card import Card
from assay.data.dataset import Dataset, RowSet, read_rows, write_dataset
from assay.data.expectations import learn_suite
from assay.data.labelling import ensure_labels, labels_path, write_questions
from assay.data.modalities.tabular import TABULAR
from assay.data.quarantine import ensure_quarantine
from assay.data.target import ensure_target, target_path, write_target
from assay.errors import ConfigError, DataError, InputError
from assay.parts import read_arrays, read_json, write_json
from assay.project.freshness import run_verb
from assay.project.layout import Project
from assay.project.stages import STAGES
from assay.release.champion import gate_scores
from assay.runs import run as runs
from assay.runs.questions import ask
from assay.scorer.batch import score_file
from assay.scorer.loading import load_scorer
from assay.scorer.scorer import Scorer

ROOT = Path(__file__).parents[2]
NAME = "plant"
COLUMNS = ("a", "b", "c")
PARAMS: dict[str, Any] = {
    "dataset": NAME,
    "datasets": [NAME],
    "eps": 0.1,
    "split": {"seed": 0},
    "contaminate": {"levels": [0], "source": "auto", "labelled": 0, "seed": 1},
    "train": {"seed": 0, "device": "cpu"},
    "calibrate": {"within": "all", "ties": "counted", "promise": "average", "seed": 2},
    "detectors": {"isolation_forest": {"n_estimators": 20}, "knn": {}, "mcd": {}},
    "adapters": ["none"],
    "select": {"seed": 0, "without_labels": "probes"},
    "run": {"cells_at_once": 1, "runner": "local", "address": ""},
}


def plant(n: int, seed: int, *, groups: int = 0) -> RowSet:
    """Readings of two machines, of which "loud" spreads five times as wide; 40 anomalies far from both."""
    rng = np.random.default_rng(seed)
    loud = rng.random(n) < 0.5
    anomalous = np.arange(n) < 40
    features = rng.standard_normal((n, 3)) * np.where(loud, 5, 1)[:, None] + np.where(anomalous, 40, 0)[:, None]
    group = np.array([f"g{i % groups}" for i in range(n)]) if groups else np.full(n, "")
    rows = {
        "row_id": [f"r{i}" for i in range(n)],
        "label": anomalous.astype(np.int8),
        "group": group,
        "time": "",
        "category": np.where(loud, "loud", "quiet"),
    }
    return RowSet(features.astype(np.float32), pd.DataFrame(rows))


def make_project(root: Path, data: RowSet, **changes: Any) -> Project:
    root.mkdir()
    shutil.copy(ROOT / "dvc.yaml", root)
    dataset = Dataset(Card(NAME, TABULAR, COLUMNS, "made here", category_column="machine"), data)
    write_dataset(root / "data" / NAME, dataset)
    write_json(root / "expectations" / f"{NAME}.json", learn_suite(dataset))
    for ensure in (ensure_answers, ensure_quarantine, ensure_labels, ensure_target):
        ensure(root, NAME)
    (root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **changes}))
    return Project(root)


def settings(project: Project, **changes: Any) -> Project:
    (project.root / "params.yaml").write_text(yaml.safe_dump({**PARAMS, **changes}))
    return Project(project.root)


def run(project: Project, upto: str = "package") -> None:
    for verb in list(STAGES)[: list(STAGES).index(upto) + 1]:
        for stage in project.stages_of(verb):
            run_verb(project, stage.name)


def packed(project: Project) -> Scorer:
    (folder,) = (path for path in project.folder("package").iterdir() if path.is_dir())
    return load_scorer(folder)


def within(mode: str) -> dict[str, Any]:
    return {"calibrate": {"within": mode, "ties": "counted", "promise": "average", "seed": 2}}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that has been run up to the training, to be copied."""
    project = make_project(tmp_path_factory.mktemp("calibration") / "project", plant(1500, 0))
    run(project, "train")
    return project.root


@pytest.fixture
def copied(trained: Path, tmp_path: Path) -> Project:
    shutil.copytree(trained, tmp_path / "project")
    return Project(tmp_path / "project")


def rates(scorer: Scorer, eps: float) -> dict[str, float]:
    """Share of fresh normal rows that are flagged, by category."""
    fresh = plant(4000, 99)
    normal = fresh.take(fresh.labels == 0)
    machine = normal.rows["category"].to_numpy(dtype=object)
    flags = scorer.predict(normal.features, eps, category=machine.tolist())
    return {name: float(flags[machine == name].mean()) for name in ("loud", "quiet")}


def test_rows_are_compared_within_their_category(copied: Project) -> None:
    run(copied)
    pooled = rates(packed(copied), 0.1)
    assert pooled["loud"] > 0.14
    assert pooled["quiet"] < 0.04
    run(settings(copied, **within("category")))
    scorer = packed(copied)
    for rate in rates(scorer, 0.1).values():
        assert 0.03 < rate < 0.2
    assert "categor" in scorer.calibrator.guarantee
    frame = pd.DataFrame(plant(50, 5).features, columns=list(COLUMNS)).assign(machine="quiet")
    np.testing.assert_array_equal(
        scorer.p_values(frame), scorer.p_values(frame[list(COLUMNS)].to_numpy(), ["quiet"] * 50)
    )
    with pytest.raises(InputError, match="new one"):
        scorer.p_values(frame.assign(machine="new one"))
    with pytest.raises(InputError, match="no categories"):
        scorer.p_values(frame[list(COLUMNS)])


def test_rows_are_compared_within_their_hardness(copied: Project) -> None:
    project = settings(copied, **within("hardness"))
    run(project)
    evaluation = read_json(project.folder("evaluate") / "evaluation.json")
    scorer = packed(project)
    assert scorer.calibrator.kind == "mondrian"
    test = read_rows(project.folder("split") / "test")
    normals = test.take(test.labels == 0)
    p_values = read_arrays(project.folder("evaluate") / "p_values/level-0.safetensors")
    chosen = scorer.statement.candidate["detector"]
    np.testing.assert_array_equal(scorer.p_values(normals.features), p_values[f"{chosen}+none.normals"])
    assert all(row["worst_stratum_fpr"] < 0.25 for row in evaluation["candidates"])


def test_without_categories_there_is_nothing_to_compare_within(tmp_path: Path) -> None:
    data = plant(600, 0)
    bare = RowSet(data.features, data.rows.drop(columns="category"))
    project = make_project(tmp_path / "project", bare, **within("category"))
    run(project, "train")
    with pytest.raises(ConfigError, match=r"no categories.*--category"):
        run(project, "calibrate")


def test_groups_are_the_unit_where_roles_were_given_by_group(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", plant(1500, 0, groups=150))
    run(project)
    scorer = packed(project)
    assert scorer.calibrator.kind == "grouped"
    calibration = read_rows(project.folder("split") / "calibration")
    assert scorer.calibrator.smallest_eps == 1 / (calibration.rows["group"].nunique() + 1)
    with pytest.raises(InputError, match="false discoveries"):
        scorer.discover(plant(20, 1).features, fdr=0.1)
    project = settings(project, **within("hardness"))
    with pytest.raises(ConfigError, match="form groups"):
        run(project, "calibrate")


def heated(n: int, seed: int, *, heat: float) -> RowSet:
    """Readings that spread the more the hotter it is; 40 anomalies far out."""
    rng = np.random.default_rng(seed)
    base = plant(n, seed)
    temperature = heat + rng.standard_normal(n)
    features = rng.standard_normal((n, 3)) * np.exp(0.7 * temperature)[:, None]
    features[:, 0] = temperature
    features[base.labels == 1, 1:] += 80
    return RowSet(features.astype(np.float32), base.rows)


def test_calibration_is_weighted_towards_target_rows(tmp_path: Path) -> None:
    """It has become hotter; what is normal at a temperature has not changed."""
    project = make_project(tmp_path / "project", heated(3000, 0, heat=0))
    run(project)
    now = heated(6000, 7, heat=0.8)
    now = now.take(now.labels == 0)
    before = float(packed(project).predict(now.features, 0.1).mean())
    path = target_path(project.root, NAME)
    assert write_target(path, pd.DataFrame(now.features, columns=list(COLUMNS)), seed=0) == 5000
    run(project)
    scorer = packed(project)
    assert scorer.calibrator.kind == "weighted"
    assert before > 0.18
    assert float(scorer.predict(now.features, 0.1).mean()) < 0.15
    with pytest.raises(ConfigError, match="reweight --clear"):
        run(settings(project, **within("hardness")), "calibrate")


def test_folds_use_training_rows_for_calibration_too(copied: Project) -> None:
    cross = {"detector": {"cross": {"detector": {"isolation_forest": {"n_estimators": 20}}, "folds": 5}}}
    project = settings(copied, detectors={**PARAMS["detectors"], "cross": cross}, adapters=["none", "cadet"])
    run(project, "evaluate")
    rows = {
        (row["detector"], row["adapter"]): row
        for row in read_json(project.folder("evaluate") / "evaluation.json")["candidates"]
    }
    n_train, n_calibration = (len(read_rows(project.folder("split") / role)) for role in ("train", "calibration"))
    assert rows["cross", "none"]["n_calibration"] == n_train + n_calibration
    assert rows["cross", "cadet"]["n_calibration"] == n_calibration
    assert rows["cross", "none"]["fpr"] < 0.2
    assert rows["cross", "none"]["power"] == 1


def test_labelled_anomalies_leave_the_reference(copied: Project) -> None:
    calibration = read_rows(copied.folder("split") / "calibration")
    run(copied, "calibrate")
    before = read_arrays(copied.folder("calibrate", "knn") / "reference/level-0/knn+none.safetensors")["scores"]
    answers = pd.read_csv(labels_path(copied.root, NAME), dtype=str)
    picked = calibration.rows.iloc[[3, 5, 8]]
    added = pd.DataFrame(dict.fromkeys(answers.columns, ""), index=range(3)).assign(
        fingerprint=picked["fingerprint"].to_numpy(),
        row_id=picked["row_id"].to_numpy(),
        label=["1", "0", "1"],
        purpose="trim",
        score="0",
    )
    added.to_csv(labels_path(copied.root, NAME), index=False, lineterminator="\n")
    run(Project(copied.root), "calibrate")
    after = read_arrays(copied.folder("calibrate", "knn") / "reference/level-0/knn+none.safetensors")["scores"]
    assert len(after) == len(before) - 2
    found = read_json(copied.folder("calibrate", "knn") / "calibration.json")
    assert found["trim"]["removed"] == 2
    assert found["trim"]["labelled"] == 3


def test_ties_are_broken_by_ids_and_counted_without(copied: Project, tmp_path: Path) -> None:
    """A state that repeats is flagged at random, row by row, and the same row always alike."""
    randomised = {"calibrate": {"within": "all", "ties": "randomised", "promise": "average", "seed": 2}}
    project = settings(copied, **randomised, detectors=PARAMS["detectors"])
    run(project)
    scorer = packed(project)
    state = np.repeat(read_rows(project.folder("split") / "calibration").features[:1], 400, axis=0)
    counted = scorer.p_values(state)
    assert len(set(counted)) == 1
    ids = [f"row {i}" for i in range(400)]
    broken = scorer.p_values(state, row_ids=ids)
    assert (broken <= counted).all()
    assert (broken < counted).any()
    np.testing.assert_array_equal(scorer.p_values(state[:10], row_ids=ids[:10]), broken[:10])
    pd.DataFrame(state, columns=list(COLUMNS)).assign(sample=ids).to_csv(tmp_path / "state.csv", index=False)
    score_file(scorer, tmp_path / "state.csv", tmp_path / "scored.parquet", id_column="sample")
    np.testing.assert_array_equal(pd.read_parquet(tmp_path / "scored.parquet")["p_value"], broken)
    with pytest.raises(InputError, match="'row 0' occurs twice"):
        scorer.discover(state[:2], 0.1, row_ids=["row 0", "row 0"])
    with pytest.raises(InputError, match="row 1 has no id"):
        scorer.p_values(state[:2], row_ids=["a", None])


def test_a_promise_with_a_confidence_is_that_of_what_ships(copied: Project) -> None:
    project = settings(copied, **promised({"confidence": 0.9}))
    run(project)
    scorer = packed(project)
    assert scorer.head["promise"] == {"confidence": 0.9, "all_eps": False}
    assert "With confidence 0.9" in scorer.guarantee
    ((low, high),) = scorer.fpr_bands().values()
    assert low < high
    selection = read_json(project.folder("select") / "selection.json")
    chosen = selection["candidates"][selection["winner"]]
    assert chosen["fpr"] < 0.08, "selection judges by the rule that ships, of which the rate is about .06 on average"
    project = settings(copied, eps=0.001, **promised({"confidence": 0.9}))
    run(project, "select")
    reasons = [row["reason"] for row in read_json(project.folder("select") / "selection.json")["candidates"]]
    assert all("eps 0.001 with confidence 0.9 needs 2302 calibration rows" in reason for reason in reasons)


def promised(promise: Any, **more: Any) -> dict[str, Any]:
    return {"calibrate": {"within": "all", "ties": "counted", "promise": promise, "seed": 2, **more}}


def test_a_confidence_is_refused_where_no_law_is_known(copied: Project, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"calibrate\.ties is 'randomised'"):
        run(settings(copied, **promised({"confidence": 0.9}, ties="randomised")), "calibrate")
    write_target(
        target_path(copied.root, NAME), pd.DataFrame(plant(440, 7).features[40:], columns=list(COLUMNS)), seed=0
    )
    with pytest.raises(ConfigError, match="target rows"):
        run(settings(copied, **promised({"confidence": 0.9})), "calibrate")
    grouped = make_project(tmp_path / "grouped", plant(600, 0, groups=60), **promised({"confidence": 0.9}))
    with pytest.raises(ConfigError, match="rows form groups"):
        run(grouped, "calibrate")


def test_nothing_is_promised_where_roles_are_by_time_and_rows_form_groups(tmp_path: Path) -> None:
    data = plant(1500, 0, groups=150)
    timed = RowSet(
        data.features, data.rows.assign(time=[f"{i:05}" for i in np.random.default_rng(0).permutation(1500)])
    )
    project = make_project(tmp_path / "project", timed)
    run(project)
    scorer = packed(project)
    assert scorer.head["unit"] == "group and time"
    assert scorer.guarantee.startswith("No false-positive rate is promised")
    assert scorer.fpr_bands() == {}


def test_neighbourhoods_are_wider_where_nobody_has_labelled_the_adapt_rows(copied: Project, tmp_path: Path) -> None:
    data = plant(1500, 0)
    unlabelled = RowSet(
        data.features, data.rows.assign(label=np.where(data.rows["label"] == 0, -1, data.rows["label"]))
    )
    counts = {}
    for name, project in {
        "labelled": settings(copied, adapters=["ares"]),
        "unlabelled": make_project(tmp_path / "unlabelled", unlabelled, adapters=["ares"]),
    }.items():
        run(project, "calibrate")
        counts[name] = read_json(project.folder("calibrate", "knn") / "adapters/level-0/knn+ares.json")["config"]["k"]
    n_adapt = len(read_rows(project.folder("split") / "adapt"))
    assert counts == {"labelled": 10, "unlabelled": int(0.1 * n_adapt) + 1}


def test_a_category_is_the_same_in_every_form(tmp_path: Path) -> None:
    """Ingested from text, asked about as numbers, in a frame, a list and files."""
    data = plant(1500, 0)
    numbered = RowSet(data.features, data.rows.assign(category=np.where(data.rows["category"] == "loud", "3", "4")))
    project = make_project(tmp_path / "numbered", numbered, **within("category"))
    run(project)
    scorer, rows = packed(project), plant(20, 5).features
    expected = scorer.p_values(rows, ["3"] * 20)
    assert (expected != scorer.p_values(rows, ["4"] * 20)).any()
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    forms: list[Any] = [3, 3.0, "3.0", pd.Categorical([3.0] * 20), pd.array([3] * 20, dtype="Int64"), [3.0, "3"] * 10]
    for form in forms:
        np.testing.assert_array_equal(scorer.p_values(frame.assign(machine=form)), expected)
    np.testing.assert_array_equal(scorer.p_values(rows, [3] * 20), expected)
    for number, form in enumerate(forms[1:3]):
        frame.assign(machine=form).to_csv(tmp_path / f"{number}.csv", index=False)
        frame.assign(machine=form).to_parquet(tmp_path / f"{number}.parquet")
        for suffix in ("csv", "parquet"):
            score_file(scorer, tmp_path / f"{number}.{suffix}", tmp_path / "scored.parquet")
            np.testing.assert_array_equal(pd.read_parquet(tmp_path / "scored.parquet")["p_value"], expected)
    missing: list[Any] = [np.nan, None, "", pd.array([None] * 20, dtype="Int64")]
    for nothing in missing:
        with pytest.raises(InputError, match=r"row 0 .*no category"):
            scorer.p_values(frame.assign(machine=nothing))


def test_rows_of_categories_that_were_never_calibrated_are_not_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Machines seen once, whose row fell to another role: the scorer refuses them, the evaluation leaves them out."""
    data = plant(1500, 0)
    machine = data.rows["category"].to_numpy(dtype=object).copy()
    machine[100:140] = [f"m{i}" for i in range(40)]
    machine[20:30] = [f"n{i}" for i in range(10)]
    project = make_project(
        tmp_path / "project", RowSet(data.features, data.rows.assign(category=machine)), **within("category")
    )
    run(project)
    test, calibration = (read_rows(project.folder("split") / role) for role in ("test", "calibration"))
    unknown = ~test.rows["category"].isin(calibration.rows["category"])
    assert unknown.sum() > 0
    found = read_json(project.folder("evaluate") / "evaluation.json")
    assert found["n_uncalibrated"] == unknown.sum()
    assert found["n_normals"] + found["n_anomalies"] == (~unknown).sum()
    scorer, known = packed(project), test.take((test.labels == 0) & ~unknown.to_numpy())
    p_values = read_arrays(project.folder("evaluate") / "p_values/level-0.safetensors")
    served = scorer.p_values(known.features, known.rows["category"].tolist())
    np.testing.assert_array_equal(served, p_values[f"{scorer.statement.candidate['detector']}+none.normals"])
    runs.print_result(runs.summarise(project, "here"))
    told = " ".join(capsys.readouterr().out.split())
    assert f"{unknown.sum()} test rows are left out" in told
    assert "At eps 0.1 no row can be flagged in category m1" in told
    every = data.rows.assign(category=data.rows["row_id"])
    project = make_project(tmp_path / "every", RowSet(data.features, every), **within("category"))
    with pytest.raises(DataError, match="no selection normal is of a category with calibration rows"):
        run(project)


def test_a_random_sample_does_not_speak_for_rows_that_came_later(copied: Project) -> None:
    """Half of the calibration rows were asked about and are normal; all that came later may be anomalies."""
    calibration = read_rows(copied.folder("split") / "calibration")
    half = calibration.take(np.arange(len(calibration)) % 2 == 0)
    path, ids = labels_path(copied.root, NAME), half.rows["row_id"].tolist()
    purposes = choose_questions(np.zeros(len(half)), ids, budget=0, sample=90, seed=2)
    asked = write_questions(path, half.rows.assign(purpose=purposes, score=0.0)[purposes != ""])
    asked.assign(label="0").to_csv(path, index=False, lineterminator="\n")
    then, now = (trim_report(rows, path, seed=2)[1]["contamination"] for rows in (half, calibration))
    assert then["left"] < 0.05
    assert now["left"] > 0.5
    assert now["estimate"] == 0
    assert [trim_report(rows, path, seed=2)[1]["trim"]["labelled"] for rows in (half, calibration)] == [90, 90]


def test_questions_are_about_the_rows_that_stand_out_in_their_category(copied: Project) -> None:
    """Where rows are compared within machines, the threshold of the quiet one is set by rows that score low in all."""
    project = settings(copied, **within("category"))
    run(project)
    ask(project, budget=20, sample=0)
    asked = pd.read_csv(labels_path(project.root, NAME))
    calibration = read_rows(project.folder("split") / "calibration").rows
    machine = asked.merge(calibration, on="row_id")["category"]
    assert 8 <= (machine == "quiet").sum() <= 12


def test_injected_rows_keep_their_category(tmp_path: Path) -> None:
    levels = {"levels": [0, 0.02], "source": "pool", "labelled": 0, "seed": 1}
    project = make_project(tmp_path / "project", plant(1500, 0), contaminate=levels)
    run(project, "contaminate")
    injected = read_rows(project.folder("contaminate") / "level-0.02").rows
    known = read_rows(project.folder("split") / "pool").rows.set_index("row_id")["category"]
    assert len(injected) > 5
    assert injected["category"].tolist() == known[injected["row_id"]].tolist()


def test_that_there_are_no_categories_is_said_before_anything_is_trained(tmp_path: Path) -> None:
    project = make_project(tmp_path / "project", plant(600, 0), **within("category"))
    runs.check_choices(project)
    card = project.data / "card.json"
    write_json(card, {name: value for name, value in read_json(card).items() if name != "category_column"})
    with pytest.raises(ConfigError, match=r"no categories.*--category"):
        runs.check_choices(project)


def test_cadet_is_fitted_by_cross_fitting_where_adapt_rows_are_few(tmp_path: Path) -> None:
    chosen = {"detectors": {**PARAMS["detectors"], "cross": {"folds": 5}}, "adapters": ["cadet"], "eps": 0.3}
    project = make_project(tmp_path / "project", plant(150, 0), **chosen)
    run(project, "calibrate")
    n_adapt, n_train = (len(read_rows(project.folder("split") / role)) for role in ("adapt", "train"))
    assert n_adapt < 20 < n_train
    folders = {name: project.folder("calibrate", name) / "adapters/level-0" for name in ("knn", "cross")}
    plain, folded = (read_json(folder / f"{name}+cadet.json")["config"] for name, folder in folders.items())
    assert f"{n_adapt} rows" in plain["fallback"]
    assert folded["fallback"] == ""
    assert len(read_arrays(folders["cross"] / "cross+cadet.safetensors")["knots"]) > 1


def test_the_gate_ranks_rows_by_what_ships(copied: Project) -> None:
    """Within machines a quiet row of a middling score is more of an anomaly than a loud one of a high score."""
    rows = plant(400, 5).take(np.arange(400) >= 40)
    scorers = []
    for mode in ("all", "category"):
        project = settings(copied, **within(mode))
        run(project)
        scorers.append(packed(project))
    table = partial(pd.DataFrame, columns=list(COLUMNS))
    plain, by_machine = (gate_scores(scorer, table, rows, rows.take(np.arange(360) < 9)) for scorer in scorers)
    np.testing.assert_array_equal(plain.normals, scorers[0].decision_function(rows.features))
    p_values = scorers[1].p_values(rows.features, rows.rows["category"].tolist())
    order = np.argsort(by_machine.normals, kind="stable")
    assert (np.diff(p_values[order]) <= 0).all()
    assert spearmanr(plain.normals, by_machine.normals).statistic < 0.95
    np.testing.assert_array_equal(by_machine.anomalies, by_machine.normals[:9])
