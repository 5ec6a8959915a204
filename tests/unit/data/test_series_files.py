"""Series from files as windows: they are what NumPy cuts by hand, and no two roles share a step."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.data.dataset import Dataset, read_dataset, write_dataset
from assay.data.modalities.series import Series
from assay.data.reference import learn_reference
from assay.data.series_files import FEWEST_ENTITIES, SeriesColumns, read_series, read_windows
from assay.data.splitting import EXCLUDED, split_rows
from assay.data.windows import Steps, Windows, cut
from assay.errors import DataError

LENGTH = 4


def plan(length: int, stride: int) -> Windows:
    return Windows(time="t", entity=None, channels=("x",), length=length, stride=stride, step=1.0, roles_by="block")


def pumps(n: int = 240) -> pd.DataFrame:
    """Return two series of two channels, a second a step, their rows mixed; series 1 lacks the seconds 100 to 109."""
    rng = np.random.default_rng(0)
    frames = []
    for pump in (0, 1):
        times = pd.date_range("2024-03-01", periods=n, freq="s")
        frame = pd.DataFrame(
            {"when": times, "pump": f"p{pump}", "flow": rng.normal(size=n), "heat": rng.normal(size=n)}
        )
        frame["bad"] = (np.arange(n) % 60 == 30).astype(int)
        frames.append(frame.drop(index=range(100, 110)) if pump else frame)
    return pd.concat(frames).sample(frac=1, random_state=1)


def read(folder: Path, frame: pd.DataFrame, **options: object) -> Dataset:
    frame.to_csv(folder / "pumps.csv", index=False)
    chosen = {"time": "when", "window": LENGTH, "entity": "pump", "label": "bad"} | options
    return read_series(folder / "pumps.csv", SeriesColumns(**chosen), name="pumps")  # type: ignore[arg-type]


@settings(max_examples=200)
@given(st.data())
def test_windows_are_those_that_a_plain_loop_finds(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 60))
    length, stride = data.draw(st.integers(2, 7)), data.draw(st.integers(1, 7))
    entities = np.sort(data.draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)))
    times = np.cumsum(data.draw(st.lists(st.sampled_from([1.0, 1.0, 1.0, 3.0, 9.0]), min_size=n, max_size=n)))
    usable = np.array(data.draw(st.lists(st.sampled_from([True] * 9 + [False]), min_size=n, max_size=n)))
    by_block, to_the_end = data.draw(st.booleans()), data.draw(st.booleans())
    steps = Steps(np.arange(n), entities, times, usable)
    made = cut(steps, plan(length, stride), by_block=by_block, to_the_end=to_the_end)

    def block(i: int) -> tuple[int, int, bool]:
        number, within = divmod(i - int(np.argmax(entities == entities[i])), 4 * length)
        return (entities[i], number, within < 3 * length) if by_block else (entities[i], 0, True)

    pieces: list[list[int]] = []
    for i in range(n):
        goes_on = i > 0 and block(i) == block(i - 1) and times[i] - times[i - 1] <= 5 and usable[i] and usable[i - 1]
        if usable[i] and block(i)[2]:
            if goes_on and pieces and pieces[-1][-1] == i - 1:
                pieces[-1].append(i)
            else:
                pieces.append([i])
    expected = []
    for piece in pieces:
        places = list(range(0, len(piece) - length + 1, stride))
        if to_the_end and len(piece) >= length:
            places = sorted({*places, len(piece) - length})
        expected += [piece[place] for place in places]
    assert made.starts.tolist() == expected
    assert made.blocks.tolist() == [block(start)[1] for start in expected]


def test_windows_hold_the_steps_of_the_file_in_order_of_time(tmp_path: Path) -> None:
    frame = pumps()
    dataset = read(tmp_path, frame, stride=3)
    ordered = {pump: rows.sort_values("when") for pump, rows in frame.groupby("pump")}
    assert dataset.card.modality == Series((LENGTH, 2))
    assert dataset.card.columns[:3] == ("flow@0", "heat@0", "flow@1")
    for row, features in zip(dataset.data.rows.itertuples(), dataset.data.features, strict=True):
        own = ordered[row.entity].set_index(ordered[row.entity]["when"].astype(str))
        first = own.index.get_loc(row.start)
        steps = own.iloc[first : first + LENGTH]
        assert np.array_equal(features, steps[["flow", "heat"]].to_numpy().ravel())
        assert (row.end, row.label) == (steps.index[-1], int(steps["bad"].any()))
        assert row.anomalous_steps == ";".join(map(str, np.flatnonzero(steps["bad"])))
        assert np.ptp(steps["when"]) == pd.Timedelta(seconds=LENGTH - 1)
        assert row.row_id == f"{row.entity} @ {row.start}"

    write_dataset(tmp_path / "data", dataset)
    again = read_dataset(tmp_path / "data")
    assert again.card.windows == dataset.card.windows
    pd.testing.assert_frame_equal(again.data.rows.drop(columns="copy"), dataset.data.rows, check_dtype=False)


def test_no_two_roles_share_a_step_and_windows_of_two_roles_are_a_window_apart(tmp_path: Path) -> None:
    dataset = read(tmp_path, pumps(2400), stride=1)
    for seed in range(5):
        parts = split_rows(dataset.data, dataset.card.columns, seed=seed, overlap=True)
        spans = []
        for role, part in parts.items():
            side = "learns" if role in ("train", "pool", "adapt") else role
            for row in part.rows.itertuples() if role != EXCLUDED else ():
                begin = int(pd.Timestamp(row.start).timestamp())
                spans.append((row.entity, begin, side))
        spans.sort()
        assert len({side for *_, side in spans}) == 5
        for (entity, begin, side), (other, later, next_side) in pairwise(spans):
            if entity == other and side != next_side:
                assert later - (begin + LENGTH - 1) > LENGTH
        assert (parts[EXCLUDED].labels == 1).all()
        assert len(parts[EXCLUDED]) > 0


def test_roles_stay_when_a_series_goes_on(tmp_path: Path) -> None:
    frame = pumps(600)
    early = frame[frame["when"] < pd.Timestamp("2024-03-01 00:07:00")]
    old, new = (read(tmp_path, rows).data.rows.set_index("row_id")["group"] for rows in (early, frame))
    assert len(new) > len(old)
    assert new.loc[old.index].tolist() == old.tolist()


def test_large_numbers_of_times_keep_their_differences(tmp_path: Path) -> None:
    frame = pd.DataFrame({"when": 1_700_000_000_000_000_000 + 100 * np.arange(80), "x": np.arange(80.0)})
    dataset = read(tmp_path, frame, entity=None, label=None)
    assert dataset.card.windows is not None
    assert dataset.card.windows.step == 100
    assert dataset.data.rows["group"].nunique() == 5
    assert dataset.data.rows["row_id"][0] == "at 1700000000000000000", "a number a spreadsheet program would round"
    assert dataset.data.rows["start"][0] == "1700000000000000000"


def test_many_series_have_roles_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pd.DataFrame({"when": np.tile(np.arange(10), FEWEST_ENTITIES), "x": np.arange(10 * FEWEST_ENTITIES)})
    frame["pump"] = np.arange(len(frame)) // 10
    dataset = read(tmp_path, frame, label=None)
    assert dataset.card.windows is not None
    assert dataset.card.windows.roles_by == "group"
    assert dataset.data.rows["group"].tolist() == dataset.data.rows["entity"].tolist()
    fewer = read(tmp_path, frame[frame["pump"] > 0], label=None)
    assert fewer.card.windows is not None
    assert fewer.card.windows.roles_by == "block"
    chosen = read(tmp_path, frame[frame["pump"] > 0].assign(site=1), label=None, group="site")
    assert set(chosen.data.rows["group"]) == {"1"}
    assert "1 groups; some 0 calibrate, by which nothing is flagged below eps 1 (0.05 takes" in capsys.readouterr().err


def test_what_is_odd_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = pumps()
    frame.loc[(frame["pump"] == "p0") & (frame["when"] == pd.Timestamp("2024-03-01 00:00:17")), "heat"] = np.nan
    frame = frame[~((frame["pump"] == "p0") & (frame["when"] == pd.Timestamp("2024-03-01 00:00:50")))]
    dataset = read(tmp_path, frame)
    said = capsys.readouterr().err
    assert "1 gaps of more than 5 steps, the longest of 11" in said
    assert "0.2% of the intervals differ by more than 10% from 1, the usual" in said
    assert "1 steps lack a value" in said
    counted = re.search(r"(\d+) windows with a gap or a missing value in them are not made", said)
    assert counted is not None
    assert int(counted[1]) == 2
    assert not np.isnan(dataset.data.features).any()
    assert f"{len(dataset.data)} windows of 4 steps; roles are given by 30 blocks of 12 steps" in said
    assert "some 4 calibrate, by which nothing is flagged below eps 0.2 (0.05 takes some 140 blocks" in said


def test_an_archive_of_windows_comes_in(tmp_path: Path) -> None:
    windows = np.random.default_rng(0).normal(size=(6, 3, 2)).astype(np.float32)
    labels, groups = np.array([0, 1, 0, 0, 1, 0]), np.array(["a", "a", "b", "b", "c", "c"])
    np.savez(tmp_path / "beats.npz", windows=windows, labels=labels, groups=groups)
    dataset = read_windows(tmp_path / "beats.npz", name="beats")
    assert dataset.card.modality == Series((3, 2))
    assert dataset.card.columns == ("0@0", "1@0", "0@1", "1@1", "0@2", "1@2")
    assert np.array_equal(dataset.data.features, windows.reshape(6, 6))
    assert dataset.data.labels.tolist() == labels.tolist()
    assert dataset.data.rows["group"].tolist() == groups.tolist()
    for wrong, message in (
        ({"windows": windows[0]}, r"it holds one of float32 and shape \(3, 2\)"),
        ({"windows": windows, "labels": labels[1:]}, "`labels` must be 6 numbers or texts"),
        ({"windows": np.zeros((1, 200, 100))}, "20000 values; 16384 are the most"),
        ({"windows": np.array([[["a"]]])}, "needs numbers `windows`"),
    ):
        np.savez(tmp_path / "wrong.npz", **wrong)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=message):
            read_windows(tmp_path / "wrong.npz", name="wrong")


def test_the_suite_judges_channels_not_places_in_windows(tmp_path: Path) -> None:
    reference = learn_reference(read(tmp_path, pumps(400)))
    assert list(reference["columns"]) == [
        f"{what} of {channel}" for channel in ("flow", "heat") for what in ("mean", "spread")
    ]
    assert reference["columns"]["spread of heat"]["missing"] == 0
    assert reference["units"] < reference["rows"] / 3


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({"when": "2024-03-01"}, {}, "has the time '2024-03-01' of another row of its series"),
        ({"when": "2024-10-27 02:30"}, {}, "where clocks went back, give times with their offset from UTC"),
        ({"pump": ""}, {}, "has nothing in column 'pump', which names its series"),
        ({"when": ""}, {}, "has no time in column 'when'"),
        ({"flow": "left"}, {}, "column 'flow' of pumps.csv holds texts, and channels of series are numbers"),
        ({}, {"window": 300}, "has no 300 steps in a row"),
        ({}, {"window": 9000}, "have 18000 values, and 16384 are the most"),
        ({}, {"stride": 5}, "--stride 5 is more than --window 4"),
        ({}, {"label": "pump"}, "one column is named for two purposes"),
        ({}, {"group": "heat"}, "all steps of a series need one group"),
    ],
)
def test_what_cannot_be_windows_is_refused(
    tmp_path: Path, change: dict[str, str], options: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        read(tmp_path, pumps().assign(**change), **options)
