"""Growth of a dataset of windows: nothing that is there moves, and no step comes into windows of two roles."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from assay.data.batches import as_batch, with_batch
from assay.data.dataset import Dataset
from assay.data.series_files import SeriesColumns, read_series
from assay.data.series_growth import read_more_steps
from assay.data.splitting import EXCLUDED, split_rows
from assay.errors import DataError

LENGTH = 5


def steps(first: int, last: int, *, pumps: tuple[str, ...] = ("a", "b"), seed: int = 0) -> pd.DataFrame:
    """Return steps of pumps, of which each lacks a few at random."""
    rng = np.random.default_rng(seed + first)
    frames = []
    for pump in pumps:
        frame = pd.DataFrame({"t": np.arange(first, last), "pump": pump, "flow": rng.normal(size=last - first)})
        frames.append(frame.assign(bad=0)[rng.random(last - first) > 0.02])
    return pd.concat(frames).sample(frac=1, random_state=1)


def begun(folder: Path, frame: pd.DataFrame | None = None, **options: object) -> Dataset:
    (steps(0, 400) if frame is None else frame).to_csv(folder / "first.csv", index=False)
    given = SeriesColumns(**{"time": "t", "window": LENGTH, "entity": "pump", "label": "bad", **options})  # type: ignore[arg-type]
    return as_batch(read_series(folder / "first.csv", given, name="pumps"))


def grown(folder: Path, dataset: Dataset, frame: pd.DataFrame, **options: str) -> Dataset:
    frame.to_csv(folder / "more.csv", index=False)
    return with_batch(dataset, read_more_steps(folder / "more.csv", dataset, label="bad", **options))  # type: ignore[arg-type]


@pytest.mark.parametrize("first", [397, 400, 403, 900])
def test_windows_of_two_roles_stay_a_window_apart_through_three_batches(tmp_path: Path, first: int) -> None:
    dataset = begun(tmp_path, stride=1)
    last = int(dataset.data.rows["end"].astype(int).max())
    more = grown(tmp_path, dataset, steps(max(first, last + 1), first + 300))
    more = grown(tmp_path, more, steps(first + 300, first + 600, pumps=("a", "b", "c")))
    old = more.data.rows[: len(dataset.data.rows)]
    pd.testing.assert_frame_equal(old[["row_id", "group", "start"]], dataset.data.rows[["row_id", "group", "start"]])
    assert more.data.rows["row_id"].is_unique
    assert not {*old["group"]} & {*more.data.rows["group"][len(old) :]}
    for seed in range(5):
        spans = []
        for role, part in split_rows(more.data, more.card.columns, seed=seed, overlap=True).items():
            side = "learns" if role in ("train", "pool", "adapt") else role
            spans += (
                []
                if role == EXCLUDED
                else [(row.entity, int(row.start), int(row.end), side, row.group) for row in part.rows.itertuples()]
            )
        spans.sort()
        assert {entity for entity, *_ in spans} == {"a", "b", "c"}
        for (entity, _, end, side, group), (other, start, _, next_side, next_group) in pairwise(spans):
            if entity == other and side != next_side:
                assert start - end > LENGTH
            if entity == other and start <= end:
                assert group == next_group


def test_new_windows_hold_the_new_steps_alone(tmp_path: Path) -> None:
    dataset, frame = begun(tmp_path), steps(400, 600)
    arrived = grown(tmp_path, dataset, frame).data
    rows = arrived.rows[len(dataset.data.rows) :]
    features = arrived.features[len(dataset.data.rows) :]
    assert len(rows) > 40
    for row, values in zip(rows.itertuples(), features, strict=True):
        own = frame[(frame["pump"] == row.entity) & frame["t"].between(int(row.start), int(row.end))]
        assert values.tolist() == own.sort_values("t")["flow"].tolist()


def test_a_series_keeps_its_group(tmp_path: Path) -> None:
    def with_sites(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(site="site " + frame["pump"])

    dataset = begun(tmp_path, with_sites(steps(0, 400)), group="site")
    more = grown(tmp_path, dataset, with_sites(steps(400, 500)), group="site")
    assert more.data.rows.groupby("entity")["group"].nunique().tolist() == [1, 1]
    assert more.data.rows["start"].astype(int).max() > 400
    with pytest.raises(DataError, match="has the series 'a' in the group 'elsewhere', and it is in 'site a'"):
        grown(tmp_path, dataset, steps(400, 500).assign(site="elsewhere"), group="site")


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (steps(380, 500), "has windows of the series '[ab]' that end later"),
        (steps(400, 500).assign(heat=1.0), "'heat' is only in one of them"),
        (steps(400, 500).drop(columns="flow"), "'flow' is only in one of them"),
        (steps(400, 900).query("t % 10 == 0"), "the usual step of more.csv is 10, and that of"),
        (steps(400, 403), "has no step more than 5 steps behind"),
        (steps(400, 500).assign(t=pd.date_range("2024", periods=500)[: len(steps(400, 500))]), "give all as timest"),
    ],
)
def test_what_cannot_join_is_named(tmp_path: Path, frame: pd.DataFrame, message: str) -> None:
    dataset = begun(tmp_path)
    with pytest.raises(DataError, match=message):
        grown(tmp_path, dataset, frame)


def test_series_that_are_new_are_named_since_they_may_be_old_ones_written_otherwise(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = begun(tmp_path, steps(0, 200, pumps=("1", "2")))
    capsys.readouterr()
    grown(tmp_path, dataset, steps(100, 300, pumps=("1.0", "9")))
    assert "2 of its series are new, with no window in pumps: '1.0', '9'" in "".join(capsys.readouterr())


def test_what_cannot_be_flagged_follows_from_all_blocks_not_from_those_that_join(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = begun(tmp_path, steps(0, 1_600))
    capsys.readouterr()
    more = grown(tmp_path, dataset, steps(1_700, 1_740))
    n_blocks, said = more.data.rows["group"].nunique(), "".join(capsys.readouterr())
    assert n_blocks > dataset.data.rows["group"].nunique() > 140
    assert f"{n_blocks} blocks of 15 steps, with 5 between two that are not used, those before included; some " in said
    assert "give longer series" not in said
