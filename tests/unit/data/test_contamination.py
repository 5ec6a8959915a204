"""Injected rows and probes: how many, whence, on record, new, and anomalous indeed."""

from __future__ import annotations

import re
from typing import Literal

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.contamination import RECORD_COLUMNS, Level, inject, make_probe_rows
from assay.data.dataset import Dataset, RowSet
from assay.data.fingerprints import fingerprints
from assay.data.modalities.image import Image
from assay.data.modalities.tabular import TABULAR
from assay.data.public_sets import load_named
from assay.data.recipes import RECIPES, synthesize
from assay.data.splitting import split_rows
from assay.errors import ConfigError, DataError, PoolTooSmallError

LEVELS = (0, 0.01, 0.05, 0.1)


@pytest.fixture(scope="module", params=["digits", "breast_cancer"])
def dataset(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return load_named(request.param, mirror=None, cache=tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def parts(dataset: Dataset) -> dict[str, RowSet]:
    return split_rows(dataset.data, dataset.card.columns, seed=0)


def rows_of(features: np.ndarray, label: int, prefix: str) -> RowSet:
    columns = tuple(f"x{i}" for i in range(features.shape[1]))
    rows = pd.DataFrame({"row_id": [f"{prefix}{i}" for i in range(len(features))], "group": "", "time": ""})
    prints = fingerprints(features, columns).astype(object)
    return RowSet(features, rows.assign(label=np.int8(label), copy=0, fingerprint=prints))


def make(n: int, *, label: int = 0, seed: int = 0, d: int = 3) -> RowSet:
    rng = np.random.default_rng((seed, label))
    return rows_of(rng.normal(size=(n, d)).astype(np.float32), label, f"{label}-")


def run(
    train: RowSet, pool: RowSet, *, levels: tuple[float, ...] | Literal["auto"] = LEVELS, source: str, seed: int = 0
) -> list[Level]:
    columns = tuple(f"x{i}" for i in range(train.features.shape[1]))
    return inject(train, pool, levels=levels, source=source, seed=seed, modality=TABULAR, columns=columns)


def assert_same(a: RowSet, b: RowSet) -> None:
    np.testing.assert_array_equal(a.features, b.features)
    pd.testing.assert_frame_equal(a.rows, b.rows)


@pytest.mark.parametrize("source", ["pool", *RECIPES])
def test_levels_hold_the_stated_share_nested_and_on_record(
    source: str, dataset: Dataset, parts: dict[str, RowSet]
) -> None:
    card, train = dataset.card, parts["train"]
    if source != "pool":  # images have recipes of their own
        source = list(card.modality.recipes)[list(RECIPES).index(source)]
    levels = inject(
        train,
        parts["pool"],
        levels=LEVELS,
        source=source,
        seed=7,
        modality=card.modality,
        columns=card.columns,
    )
    assert [level.rho for level in levels] == list(LEVELS)
    assert len(levels[0].injected) == 0
    everything = {row for part in parts.values() for row in part.rows["fingerprint"]}
    for level, smaller in zip(levels[1:], levels, strict=False):
        n = len(level.injected)
        assert level.n_train == len(train)
        assert abs(n / (level.n_train + n) - level.rho) < 1 / len(train)
        assert_same(level.injected.take(np.arange(len(smaller.injected))), smaller.injected)
    top = levels[-1].injected
    assert tuple(top.rows.columns) == RECORD_COLUMNS
    assert set(top.labels) == {1}
    assert (top.rows["fingerprint"] == fingerprints(top.features, card.columns)).all()
    assert not top.rows["fingerprint"].duplicated().any()
    assert not set(top.rows["fingerprint"]) & set(train.rows["fingerprint"])
    assert set(top.rows["recipe"]) == {source}
    assert set(top.rows["seed"]) == {7}
    if source == "pool":
        assert set(top.rows["row_id"]) <= set(parts["pool"].rows["row_id"])
        assert (top.rows["source_row"] == top.rows["row_id"]).all()
    else:
        assert not set(top.rows["fingerprint"]) & everything
        assert top.rows["row_id"].tolist() == [f"synthetic-{source}-7-{i}" for i in range(len(top))]
        made_of_rows = source in ("local", "cluster") or card.modality.name == "image"
        assert set(top.rows["source_row"]) <= (set(train.rows["row_id"]) if made_of_rows else {""})


@pytest.mark.parametrize("source", ["pool", *RECIPES])
def test_the_same_seed_gives_the_same_rows_whatever_the_other_levels(source: str) -> None:
    train, pool = make(200), make(60, label=1)
    alone = run(train, pool, levels=(0, 0.05), source=source)
    among = run(train, pool, source=source)
    assert_same(alone[1].injected, among[2].injected)
    other = run(train, pool, source=source, seed=1)
    assert set(other[-1].injected.rows["fingerprint"]) != set(among[-1].injected.rows["fingerprint"])


def test_the_choice_from_the_pool_does_not_depend_on_its_order_and_takes_anomalies_only() -> None:
    train, pool = make(200), make(60, label=1)
    mixed = RowSet(pool.features, pool.rows.assign(label=np.array([1, 1, -1] * 20, dtype=np.int8)))
    found = run(train, mixed, source="pool")[-1].injected
    again = run(train, mixed.take(np.arange(60)[::-1]), source="pool")[-1].injected
    assert_same(found, again)
    assert {int(row.removeprefix("1-")) % 3 for row in found.rows["row_id"]} == {0, 1}
    assert found.rows["row_id"].is_unique


def test_groups_and_times_of_pool_rows_are_kept() -> None:
    pool = make(60, label=1)
    marked = RowSet(pool.features, pool.rows.assign(group="g-" + pool.rows["row_id"], time="t"))
    found = run(make(100), marked, source="pool")[-1].injected.rows
    assert (found["group"] == "g-" + found["row_id"]).all()
    assert (found["time"] == "t").all()


def test_auto_takes_the_pool_if_it_has_anomalies_and_clusters_if_not() -> None:
    train, pool = make(200), make(60, label=1)
    assert_same(run(train, pool, source="auto")[-1].injected, run(train, pool, source="pool")[-1].injected)
    none = pool.take(np.zeros(60, dtype=bool))
    assert_same(run(train, none, source="auto")[-1].injected, run(train, pool, source="cluster")[-1].injected)


@pytest.mark.parametrize(
    ("n_train", "held", "levels"),
    [
        (400, 60, (0, 0.01, 0.05, 0.1)),
        (400, 44, (0, 0.01, 0.05, 0.1)),
        (400, 43, (0, 0.01, 0.05)),
        (400, 3, (0,)),
        (40, 60, (0, 0.05, 0.1)),
    ],
)
def test_auto_takes_the_levels_that_the_pool_reaches(n_train: int, held: int, levels: tuple[float, ...]) -> None:
    train, pool = make(n_train), make(60, label=1).take(np.arange(held))
    taken = run(train, pool, levels="auto", source="pool")
    assert tuple(level.rho for level in taken) == levels
    for level, same in zip(taken, run(train, pool, levels=levels, source="pool"), strict=True):
        assert_same(level.injected, same.injected)


def test_auto_takes_all_levels_where_anomalies_are_made() -> None:
    taken = run(make(400), make(60, label=1).take(np.arange(0)), levels="auto", source="auto")
    assert [len(level.injected) for level in taken] == [0, 4, 21, 44]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(0, 60))
def test_the_largest_rho_that_is_named_really_works(n_train: int, held: int) -> None:
    train, pool = make(n_train), make(60, label=1).take(np.arange(held))
    if round(0.499 / 0.501 * n_train) <= held:
        assert len(run(train, pool, levels=(0, 0.499), source="pool")[1].injected) <= held
        return
    with pytest.raises(PoolTooSmallError, match=f"the pool has {held};") as caught:
        run(train, pool, levels=(0, 0.499), source="pool")
    found = re.search(r"possible is (0\.\d\d\d):", str(caught.value))
    assert found is not None
    largest = float(found[1])
    assert largest <= held / (n_train + held) < largest + 0.001 + 1e-12
    if largest > 0:
        assert len(run(train, pool, levels=(0, largest), source="pool")[1].injected) <= held


@pytest.mark.parametrize(
    "levels", [(), (0.1,), (0, 0.5), (0, -0.1), (0, 0.1, 0.1), (0, 0.2, 0.1), (0, float("nan")), (-0.1, 0)]
)
def test_levels_that_make_no_sense_are_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="start with 0"):
        run(make(50), make(50, label=1), levels=levels, source="pool")


def test_unknown_sources_and_recipes_are_named() -> None:
    with pytest.raises(ConfigError, match=r"'noise'.*auto, pool, local, global, cluster, dependency"):
        run(make(50), make(5, label=1), source="noise")
    for recipes in (["pool"], [], ["local", "local"]):
        with pytest.raises(ConfigError, match="recipes"):
            make_probe_rows(make(50), recipes=recipes, n=10, seed=0, columns=("x0", "x1", "x2"), modality=TABULAR)
    with pytest.raises(ConfigError, match="1 probes"):
        make_probe_rows(
            make(50), recipes=["local", "global"], n=1, seed=0, columns=("x0", "x1", "x2"), modality=TABULAR
        )


def test_rows_that_no_recipe_can_be_fitted_on_are_refused() -> None:
    nothing = make(5, label=1)
    with pytest.raises(DataError, match="no rows"):
        run(make(5).take(np.zeros(5, dtype=bool)), nothing, source="local")
    with pytest.raises(DataError, match="at least 2"):
        run(make(1), nothing, levels=(0, 0.45), source="local")
    hole = make(50)
    hole.features[3, 1] = np.inf
    with pytest.raises(DataError, match="row 3, column 1"):
        run(hole, nothing, source="global")


def test_data_without_room_for_new_rows_are_refused() -> None:
    constant = rows_of(np.ones((50, 2), dtype=np.float32), 0, "c")
    with pytest.raises(ConfigError, match="only 0 of 6 rows"):
        run(constant, make(5, label=1, d=2), source="dependency")


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_is_a_stream(recipe: str) -> None:
    few, many = (synthesize(recipe, make(80).features, n, seed=3, modality=TABULAR) for n in (10, 40))
    np.testing.assert_array_equal(few[0], many[0][:10])
    np.testing.assert_array_equal(few[1], many[1][:10])


@pytest.mark.parametrize("recipe", RECIPES)
def test_synthetic_rows_stay_in_bounds(recipe: str, dataset: Dataset, parts: dict[str, RowSet]) -> None:
    X, modality = parts["train"].features, dataset.card.modality
    recipe = list(modality.recipes)[list(RECIPES).index(recipe)]  # images have recipes of their own
    made, _ = synthesize(recipe, X, 300, seed=0, modality=modality)
    low, high = X.min(axis=0), X.max(axis=0)
    if modality.name == "image":
        assert made.min() >= X.min()
        assert made.max() <= X.max()
    else:
        room = 0.5 * (high - low) * (1 + 1e-5)
        assert (made >= low - room).all()
        assert (made <= high + room).all()


@pytest.mark.parametrize("recipe", RECIPES)
def test_one_column_a_constant_one_and_huge_values_are_no_obstacle(recipe: str) -> None:
    rng = np.random.default_rng(0)
    X = np.stack([rng.normal(size=60), np.full(60, 4.0), rng.normal(size=60) * 1e38], axis=1).astype(np.float32)
    made, _ = synthesize(recipe, X, 50, seed=0, modality=TABULAR)
    assert np.isfinite(made).all()
    assert (made[:, 1] == 4).all()
    assert len(run(rows_of(X[:, :1], 0, "r"), make(1, label=1, d=1), source=recipe)[-1].injected) == 7


def test_dependency_keeps_the_margins_and_breaks_the_dependence() -> None:
    rng = np.random.default_rng(0)
    a = rng.normal(size=2000)
    X = np.stack([a, a + 0.1 * rng.normal(size=2000)], axis=1).astype(np.float32)
    made, _ = synthesize("dependency", X, 2000, seed=0, modality=TABULAR)
    assert abs(np.asarray(pd.DataFrame(made).corr())[0, 1]) < 0.1
    np.testing.assert_allclose(made.mean(axis=0), X.mean(axis=0), atol=0.1)
    np.testing.assert_allclose(made.std(axis=0), X.std(axis=0), rtol=0.1)


def test_local_has_five_times_the_covariance_of_its_neighbourhood() -> None:
    X = np.random.default_rng(0).multivariate_normal([3, -2], [[4, 1], [1, 1]], size=40).astype(np.float32)
    made, _ = synthesize("local", X, 20_000, seed=0, modality=TABULAR)  # 40 rows are one neighbourhood
    # Clipping at half a range beyond the data cuts the far tails only.
    np.testing.assert_allclose(np.cov(made, rowvar=False), 5 * np.cov(X, rowvar=False), rtol=0.2)


@pytest.mark.parametrize("recipe", RECIPES)
def test_synthetic_rows_look_anomalous_to_a_neighbour_distance(
    recipe: str, dataset: Dataset, parts: dict[str, RowSet]
) -> None:
    """Mean AUROC over redraws of split and recipe, 5-NN distance, probes against normal test rows."""
    from sklearn.metrics import roc_auc_score
    from sklearn.neighbors import NearestNeighbors

    card, found = dataset.card, []
    recipe = list(card.modality.recipes)[list(RECIPES).index(recipe)]  # images have recipes of their own
    for seed in range(5):
        redrawn = split_rows(dataset.data, card.columns, seed=seed)
        train, test = redrawn["train"], redrawn["test"].take(redrawn["test"].labels == 0)
        probes = make_probe_rows(test, recipes=[recipe], n=100, seed=seed, columns=card.columns, modality=card.modality)
        scaler = card.modality.scaler().fit(train.features)
        neighbours = NearestNeighbors(n_neighbors=5).fit(scaler.transform(train.features))
        rows = scaler.transform(np.concatenate([test.features, probes.features]))
        truth = np.repeat([0, 1], [len(test), len(probes)])
        found.append(roc_auc_score(truth, neighbours.kneighbors(rows)[0].mean(axis=1)))
    assert np.mean(found) > 0.8, found


def test_probes_are_shared_equally_new_and_on_record(dataset: Dataset, parts: dict[str, RowSet]) -> None:
    card, test = dataset.card, parts["test"]
    recipes = list(card.modality.recipes)[:3]
    found = make_probe_rows(
        test,
        recipes=recipes,
        n=50,
        seed=3,
        columns=card.columns,
        modality=card.modality,
    )
    assert found.rows["recipe"].value_counts().to_dict() == dict(zip(recipes, (17, 17, 16), strict=True))
    assert tuple(found.rows.columns) == RECORD_COLUMNS
    assert found.rows["row_id"].is_unique
    assert found.rows["fingerprint"].is_unique
    assert not set(found.rows["fingerprint"]) & set(test.rows["fingerprint"])
    assert (found.rows["fingerprint"] == fingerprints(found.features, card.columns)).all()
    assert set(found.labels) == {1}


def test_cluster_lies_far_outside_and_local_beside_its_source() -> None:
    X = np.random.default_rng(0).normal(size=(500, 5)).astype(np.float32)
    made, _ = synthesize("cluster", X, 200, seed=0, modality=TABULAR)
    assert np.median(np.linalg.norm(made, axis=1)) > np.linalg.norm(X, axis=1).max()

    halves = X + np.repeat([[-50.0], [50.0]], 250, axis=0).astype(np.float32)
    found = run(rows_of(halves, 0, "r"), make(5, label=1, d=5), source="local")[-1].injected
    source = found.rows["source_row"].str.removeprefix("r").astype(int).to_numpy()
    np.testing.assert_array_equal(np.sign(found.features[:, 0]), np.sign(halves[source, 0]))


def test_synthetic_rows_are_all_different_where_clipping_makes_them_equal() -> None:
    pixels = np.array([[0, 1], [1, 0]] * 30, dtype=np.float32)  # clipping leads to [0, 0] and [1, 1]
    train = rows_of(pixels, 0, "p")
    made, _ = synthesize("noise", pixels, 49, seed=1, modality=Image((1, 2)))
    assert len(np.unique(made, axis=0)) < 49
    injected = inject(
        train,
        make(5, label=1, d=2),
        levels=(0, 0.45),
        source="noise",
        seed=1,
        modality=Image((1, 2)),
        columns=("x0", "x1"),
    )[-1].injected
    assert len(np.unique(np.concatenate([injected.features, np.unique(pixels, axis=0)]), axis=0)) == 49 + 2


def test_at_most_five_thousand_rows_are_fitted() -> None:
    X = np.random.default_rng(0).normal(size=(20_000, 2)).astype(np.float32)
    _, sources = synthesize("local", X, 30_000, seed=0, modality=TABULAR)
    assert 4_500 < len(set(sources)) <= 5_000
    assert sources.max() > 15_000


def mixed_rows(n: int = 400) -> np.ndarray:
    """Return two numbers that depend on a category of three, which tells a second one; tenths are missing."""
    rng = np.random.default_rng(5)
    kind = rng.integers(0, 3, n).astype(float)
    rows = np.column_stack([rng.normal(4 * kind, 1), rng.normal(-4 * kind, 1), kind, 2 - kind])
    rows[rng.random(n) < 0.1, 0] = np.nan
    return rows


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_synthetic_rows_have_categories_of_other_rows_in_new_company(recipe: str) -> None:
    rows = mixed_rows()
    made, _ = synthesize(recipe, rows, 200, seed=0, modality=TABULAR, coded=(2, 3))
    assert set(np.unique(made[:, 2:])) <= {0.0, 1.0, 2.0}
    assert (made[:, 2] + made[:, 3] != 2).mean() > 0.5
    assert np.isnan(made[:, 0]).mean() < 0.3
    assert np.isnan(made[:, 0]).any() or recipe == "cluster"  # made from three rows
    assert np.isfinite(made[:, 1:]).all()
    few, _ = synthesize(recipe, rows, 20, seed=0, modality=TABULAR, coded=(2, 3))
    np.testing.assert_array_equal(few, made[:20])


@pytest.mark.parametrize("recipe", list(RECIPES))
def test_tables_of_categories_alone_have_recipes_too(recipe: str) -> None:
    codes = np.random.default_rng(0).integers(0, 12, (300, 4)).astype(float)
    made, _ = synthesize(recipe, codes, 50, seed=0, modality=TABULAR, coded=(0, 1, 2, 3))
    assert set(np.unique(made)) <= set(np.unique(codes))
    assert len(np.unique(made, axis=0)) > 25 if recipe != "cluster" else len(made) == 50


@pytest.mark.parametrize("recipe", RECIPES)
def test_an_injected_row_has_the_category_of_its_source_or_in_turn_that_of_any_row(recipe: str) -> None:
    train = make(40)
    train = RowSet(train.features, train.rows.assign(category=[f"c{i}" for i in range(40)]))
    injected = run(train, make(0, label=1), levels=(0, 0.45), source=recipe)[1].injected.rows
    of_source = dict(zip(train.rows["row_id"], train.rows["category"], strict=True))
    in_turn = [f"c{i}" for i in range(len(injected))]
    expected = [of_source.get(source, turn) for source, turn in zip(injected["source_row"], in_turn, strict=True)]
    assert len(injected) == 33
    assert injected["category"].tolist() == expected
