"""Reach: groups apart from the others vouch for each other only beyond their gap."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.sparse.csgraph import minimum_spanning_tree
from scipy.spatial.distance import cdist

from assay.detectors.baselines.knn import KNearestNeighbors
from assay.detectors.baselines.reach import Reach
from assay.errors import ConfigError, TrainingError
from assay.evaluation.metrics import auroc

Doubles = NDArray[np.float64]


def by_definition(rows: Doubles, share: float, k: int) -> Doubles:
    """Reach of each row by joining groups along scipy's spanning tree of the whole matrix of distances."""
    distances = cdist(rows, rows)
    core = np.sort(distances, axis=1)[:, k]
    mutual = np.maximum(distances, np.maximum(core[:, None], core[None]))
    tree = minimum_spanning_tree(mutual).tocoo()
    reach, group = np.zeros(len(rows)), np.arange(len(rows))
    normal = share * len(rows)
    reached = False
    for edge in np.argsort(tree.data, kind="stable"):
        labels = group[[tree.row[edge], tree.col[edge]]]
        small, large = sorted((group == label for label in labels), key=np.sum)
        if small.sum() < normal <= small.sum() + large.sum():
            reach[small] = tree.data[edge]
            reach[large] = tree.data[edge] if reached and large.sum() < normal else reach[large]
            reached = True
        group[small | large] = labels[0]
    return reach


@pytest.mark.parametrize("share", [0.02, 0.05, 0.3])
def test_scores_are_those_of_the_definition(share: float) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.normal(size=(200, 3)), 6 + 0.2 * rng.normal(size=(12, 3)), -9 + 0.5 * rng.normal(size=(30, 3))]
    rows = np.concatenate(parts).astype(np.float32)[rng.permutation(242)]
    queries = (4 * rng.normal(size=(300, 3))).astype(np.float32)
    reach = by_definition(rows.astype(np.float64), share, k=5)
    expected = np.sort(np.maximum(cdist(queries.astype(np.float64), rows), reach), axis=1)[:, 4]
    detector = Reach(share=share).fit(rows)
    np.testing.assert_allclose(detector.decision_function(queries), expected, rtol=1e-6)


def test_a_dense_group_apart_is_flagged_where_nearest_neighbours_call_it_normal() -> None:
    rng = np.random.default_rng(1)
    normal, apart = rng.normal(size=(600, 4)), 5 + 0.05 * rng.normal(size=(40, 4))
    train = np.concatenate([normal[:400], apart[:15]]).astype(np.float32)
    test = np.concatenate([normal[400:], apart[15:]]).astype(np.float32)
    truth = np.repeat([0, 1], [200, 25]).astype(np.int8)
    assert auroc(truth, Reach().fit(train).decision_function(test)) > 0.99
    assert auroc(truth, KNearestNeighbors().fit(train).decision_function(test)) < 0.1


def test_anomalies_are_seen_beside_a_second_kind_of_normal_rows() -> None:
    """A tenth of the rows stands apart, as rows of a rare category do; it is normal, and no anomaly hides behind it."""
    rng = np.random.default_rng(6)

    def normals(n: int) -> Doubles:
        is_rare = rng.uniform(size=(n, 1)) < 0.1
        return np.append(0.1 * rng.normal(size=(n, 4)), is_rare, axis=1)

    detector = Reach().fit(normals(1000).astype(np.float32))
    threshold = np.quantile(detector.decision_function(normals(1000).astype(np.float32)), 0.95)
    anomalies = normals(200)
    anomalies[:, :2] += [0.5, -0.5]
    assert (detector.decision_function(anomalies.astype(np.float32)) > threshold).mean() > 0.9


def test_rows_that_stand_alone_and_groups_that_are_large_score_as_by_nearest_neighbours() -> None:
    rng = np.random.default_rng(2)
    train = np.concatenate([rng.normal(size=(300, 3)), 20 + rng.normal(size=(100, 3))]).astype(np.float32)
    queries = np.concatenate([rng.normal(size=(50, 3)), 20 + rng.normal(size=(50, 3)), [[10, 10, 10]]])
    ours, theirs = (d.fit(train).decision_function(queries) for d in (Reach(), KNearestNeighbors()))
    assert np.corrcoef(np.log(ours), np.log(theirs))[0, 1] > 0.95
    assert ours[-1] == theirs[-1]


def test_of_very_many_rows_a_seeded_sample_is_kept() -> None:
    rows = np.random.default_rng(3).normal(size=(500, 2)).astype(np.float32)
    first, again, other = (Reach(max_rows=300, seed=seed).fit(rows) for seed in (0, 0, 1))
    assert len(first.to_part().arrays["rows"]) == 300
    np.testing.assert_array_equal(first.decision_function(rows), again.decision_function(rows))
    assert not np.array_equal(first.decision_function(rows), other.decision_function(rows))


def test_what_it_cannot_do_is_said() -> None:
    rows = np.random.default_rng(4).normal(size=(5, 2)).astype(np.float32)
    with pytest.raises(TrainingError, match="n_neighbors is 5, and 5 training rows are kept"):
        Reach().fit(rows)
    with pytest.raises(ConfigError, match="share"):
        Reach(share=0.6).fit(rows)


def test_groups_that_stand_apart_are_counted() -> None:
    rng = np.random.default_rng(5)
    bulk, near, far = rng.normal(size=(400, 3)), rng.normal(size=(12, 3)) / 9, rng.normal(size=(7, 3)) / 9
    rows = np.concatenate([bulk, near + 7, far - 9, [[0, 20, 0]]]).astype(np.float32)
    assert Reach().fit(rows).form_.groups_apart().tolist() == [12, 7], "a row that stands alone is no group"
    assert not Reach().fit(bulk.astype(np.float32)).form_.groups_apart().size
