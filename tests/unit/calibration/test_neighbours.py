"""The neighbour search: exact among few rows, nearly exact among many, and the same bits in any batch."""

from __future__ import annotations

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

from assay.calibration.neighbours import Grid, Neighbours


def manifold(n, seed, columns=16):
    """Rows near a curved surface of 4 dimensions, in 10 clumps, as latent codes are."""
    rng, shape = np.random.default_rng(seed), np.random.default_rng(99)
    codes = shape.normal(size=(10, 4))[rng.integers(0, 10, n)] + 0.5 * rng.normal(size=(n, 4))
    rows = np.tanh(codes @ shape.normal(size=(4, 40)) / 2) @ shape.normal(size=(40, columns))
    return rows + 0.05 * rng.normal(size=rows.shape)


@pytest.fixture
def limit(monkeypatch):
    """Set the number of rows up to which the search is exact."""
    return lambda most: monkeypatch.setattr("assay.calibration.neighbours.MOST_EXACT", most)


def gather(search, n, *rows):
    """Neighbours and distances of all rows, the nearest first."""
    blocks = []
    search(*rows, blocks.append)
    places = np.concatenate([block.rows for block in blocks])
    assert sorted(places) == list(range(n))
    back = np.argsort(places)
    neighbours, distances = (np.concatenate([getattr(b, f) for b in blocks])[back] for f in ("neighbours", "distances"))
    order = np.argsort(distances, axis=1, kind="stable")
    return np.take_along_axis(neighbours, order, 1), np.take_along_axis(distances, order, 1)


def brute(stored, rows):
    return np.sqrt(np.square(rows[:, None, :] - stored[None]).sum(axis=2))


@pytest.mark.parametrize(("n", "columns", "k"), [(2, 3, 1), (50, 1, 49), (300, 5, 7), (400, 300, 30)])
def test_exact_search_finds_what_brute_force_finds(n, columns, k):
    stored, rows = (np.random.default_rng(seed).normal(size=(m, columns)) for seed, m in ((0, n), (1, 60)))
    index = Neighbours.build(stored, k)
    assert index.is_exact
    neighbours, distances = gather(index.search, 60, rows)
    true, blur = brute(stored, rows), 2 * index.grid.step * np.sqrt(columns)
    np.testing.assert_allclose(distances, np.sort(true, axis=1)[:, :k], rtol=0, atol=blur)
    np.testing.assert_allclose(np.take_along_axis(true, neighbours, 1), distances, rtol=0, atol=blur)
    assert blur < 1e-3 * np.median(true)


def test_a_stored_row_is_not_its_own_neighbour_but_its_double_is():
    stored = np.random.default_rng(2).normal(size=(40, 3))
    stored[7] = stored[3]
    neighbours, distances = gather(Neighbours.build(stored, 5).search_stored, 40)
    assert not (neighbours == np.arange(40)[:, None]).any()
    true = brute(stored, stored)
    np.fill_diagonal(true, np.inf)
    np.testing.assert_array_equal(neighbours, np.argsort(true, axis=1)[:, :5])
    assert (neighbours[3, 0], distances[3, 0], distances[7, 0]) == (7, 0, 0)


@pytest.mark.parametrize("columns", [1, 2, 3, 31, 32, 33, 800])
def test_distances_are_exact_even_between_the_corners_of_the_grid(columns):
    rng = np.random.default_rng(3)
    grid = Grid.fit(rng.normal(size=(20, columns)))
    points = rng.choice([-grid.limit, grid.limit, 1 - grid.limit, 5], size=(6, columns)).astype(np.float32)
    points[0], points[1] = -grid.limit, grid.limit
    index = Neighbours(5, grid, points, points[:1], np.arange(6, dtype=np.int32)[None])
    neighbours, distances = gather(index.search_stored, 6)
    whole = [[int(value) for value in point] for point in points]
    squared = [[sum((a - b) ** 2 for a, b in zip(p, q, strict=True)) for q in whole] for p in whole]
    assert squared[0][1] == 4 * columns * grid.limit**2 <= 2**53
    expected = [[np.sqrt(float(squared[i][j])) * grid.step for j in neighbours[i]] for i in range(6)]
    np.testing.assert_array_equal(distances, expected)


@pytest.mark.parametrize("kind", ["real", "ties"])
@pytest.mark.parametrize("most_exact", [200, 5000])
@pytest.mark.parametrize("k", [1, 8, 9, 150])
def test_a_row_finds_the_same_bits_alone_and_in_a_batch(limit, kind, most_exact, k):
    limit(most_exact)
    stored, rows = manifold(1500, seed=4), manifold(120, seed=5)
    if kind == "ties":
        stored, rows = np.rint(stored), np.rint(rows)
    index = Neighbours.build(stored, k)
    assert index.is_exact == (most_exact == 5000)
    neighbours, distances = gather(index.search, 120, rows)
    for i, row in enumerate(rows):
        (alone,), (near,) = gather(index.search, 1, row[None])
        np.testing.assert_array_equal(alone, neighbours[i])
        np.testing.assert_array_equal(near, distances[i])


def test_the_number_of_threads_changes_nothing(limit):
    limit(500)
    stored, rows, found = manifold(3000, seed=6), manifold(2000, seed=7), []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            index = Neighbours.build(stored, 20)
            found.append([index.lists, index.pivots, *gather(index.search, 2000, rows)])
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("k", [5, 60])
def test_lists_are_short_and_hold_most_of_the_true_neighbours(limit, k):
    recalls = []
    for seed in range(4):
        stored, rows = manifold(4000, seed=10 + seed), manifold(300, seed=20 + seed)
        limit(1000)
        index = Neighbours.build(stored, k, seed=seed)
        assert not index.is_exact
        assert k < index.lists.shape[1] < 2000
        neighbours, distances = gather(index.search, 300, rows)
        limit(4000)
        exact, nearest = gather(Neighbours.build(stored, k).search, 300, rows)
        recalls.append(np.mean([np.isin(a, b).mean() for a, b in zip(exact, neighbours, strict=True)]))
        assert (distances >= nearest).all()
    assert np.mean(recalls) > 0.95
    assert np.mean(recalls) < 1


def test_stored_rows_leave_themselves_out_of_the_lists(limit):
    limit(500)
    index = Neighbours.build(manifold(2000, seed=8), 12)
    neighbours, distances = gather(index.search_stored, 2000)
    assert not (neighbours == np.arange(2000)[:, None]).any()
    assert (distances > 0).all()


def test_many_dimensions_without_structure_are_searched_exactly(limit):
    limit(500)
    stored = np.random.default_rng(9).normal(size=(1500, 100))
    assert Neighbours.build(stored, 10).is_exact


def test_copies_of_one_row_are_no_trouble(limit):
    stored = np.concatenate([np.zeros((1500, 3)), manifold(500, seed=1, columns=3)])
    for most in (100, 5000):
        limit(most)
        neighbours, distances = gather(Neighbours.build(stored, 10).search_stored, 2000)
        assert (distances[:1500] == 0).all()
        assert (neighbours[:1500] < 1500).all()
        assert not (neighbours == np.arange(2000)[:, None]).any()


@pytest.mark.parametrize("wild", [1e3, 1e12, 1e30])
def test_a_wild_row_does_not_blur_the_others(wild):
    stored = np.random.default_rng(11).normal(size=(201, 4))
    stored[200] = wild
    true = brute(stored[:200], stored[:200])
    np.fill_diagonal(true, np.inf)
    _, distances = gather(Neighbours.build(stored, 6).search_stored, 201)
    np.testing.assert_allclose(distances[:200], np.sort(true, axis=1)[:, :6], rtol=0.02)
    assert distances[200].min() > 100 * distances[:200].max()


def test_rows_far_away_stay_far_away_and_finite():
    stored = np.random.default_rng(12).normal(size=(100, 4))
    _, distances = gather(Neighbours.build(stored, 3).search, 3, np.array([[1e38] * 4, [50.0] * 4, [0.0] * 4]))
    assert np.isfinite(distances).all()
    assert (distances[0] > distances[1].max() / 3).all()
    assert (distances[1] > 10 * distances[2].max()).all()


@pytest.mark.parametrize("scale", [2.0**-40, 2.0**60])
def test_the_unit_does_not_matter(scale):
    stored, rows = manifold(300, seed=13), manifold(50, seed=14)
    neighbours, distances = gather(Neighbours.build(stored, 4).search, 50, rows)
    again, scaled = gather(Neighbours.build(scale * stored, 4).search, 50, scale * rows)
    np.testing.assert_array_equal(again, neighbours)
    np.testing.assert_array_equal(scaled, scale * distances)


def test_an_index_comes_back_from_its_arrays_and_the_seed_decides(limit):
    stored, rows = manifold(2000, seed=15), manifold(100, seed=16)
    for most in (500, 5000):
        limit(most)
        first, again, other = (Neighbours.build(stored, 9, seed=s) for s in (1, 1, 2))
        loaded = Neighbours.from_arrays(9, {name: array.copy() for name, array in first.arrays().items()})
        for one, two in ((first, again), (first, loaded)):
            assert {n: a.tobytes() for n, a in one.arrays().items()} == {
                n: a.tobytes() for n, a in two.arrays().items()
            }
            for left, right in zip(*(gather(index.search, 100, rows) for index in (one, two)), strict=True):
                np.testing.assert_array_equal(left, right)
        assert np.array_equal(first.pivots, other.pivots) == first.is_exact


def test_of_rows_at_the_same_distance_those_that_come_first_are_neighbours():
    rng = np.random.default_rng(8)
    rows, queries = rng.integers(0, 5, (300, 3)).astype(float), rng.integers(0, 5, (80, 3)).astype(float)
    index = Neighbours.build(rows, 12)
    for found, asked, own in ((index.in_order(queries), queries, False), (index.in_order_stored(), rows, True)):
        # Between points of the grid, where rows at the same distance stay so or come apart.
        squared = np.square(index.grid.snap(asked)[:, None].astype(float) - index.points).sum(axis=2)
        if own:
            np.fill_diagonal(squared, np.inf)
        expected = np.argsort(squared, axis=1, kind="stable")[:, :12]
        np.testing.assert_array_equal(found[0], expected)
        distances = np.sqrt(np.take_along_axis(squared, expected, axis=1)) * index.grid.step
        np.testing.assert_array_equal(found[1], distances)
        assert (np.diff(found[1]) == 0).any()
