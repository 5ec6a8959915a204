"""Telemetry in the layout of SMAP and MSL."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from assay.data.telemetry import holds_telemetry, read_telemetry
from assay.errors import DataError

LIST = "chan_id,spacecraft,anomaly_sequences,class,num_values\n{}\n"


def folder(root: Path, listed: str, **widths: int) -> Path:
    """Write a folder with channels of some widths: 60 steps to train on, 80 to test on."""
    rng = np.random.default_rng(0)
    for part, n in (("train", 60), ("test", 80)):
        (root / part).mkdir()
        for channel, width in widths.items():
            np.save(root / part / f"{channel}.npy", rng.normal(size=(n, width)))
    (root / "labeled_anomalies.csv").write_text(LIST.format(listed))
    return root


def test_windows_hold_the_steps_of_the_files_and_the_listed_anomalies(tmp_path: Path) -> None:
    rows = 'P,SMAP,"[[10, 12], [40, 40]]",[point],80\nP,SMAP,"[[60, 61]]",[point],80\nE,SMAP,[],[],80'
    path = folder(tmp_path, rows, P=3, E=3, unlisted=7)
    assert holds_telemetry(path)
    dataset = read_telemetry(path, name="craft", window=4, stride=2)
    rows_ = dataset.data.rows
    assert {*rows_["entity"]} == {"P/train", "P/test", "E/train", "E/test"}
    assert dataset.card.windows is not None
    assert dataset.card.windows.channels == ("0", "1", "2")
    for row, values in zip(rows_.itertuples(), dataset.data.features, strict=True):
        channel, part = row.entity.split("/")
        first = int(row.start)
        assert np.array_equal(values, np.load(path / part / f"{channel}.npy")[first : first + 4].ravel())
        anomalous = {10, 11, 12, 40, 60, 61} & {*range(first, first + 4)}
        expected = -1 if part == "train" else int(bool(anomalous) and channel == "P")
        assert row.label == expected
        if expected == 1:
            assert row.anomalous_steps != ""
    assert (rows_["label"] == 1).sum() >= 3


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("P,SMAP,[],,80\nwide,MSL,[],,80", "P/train has 3 columns and wide/train 5"),
        ("P,SMAP,[],,80\ngone,SMAP,[],,80", "train/gone.npy is missing"),
        ('P,SMAP,"[[70, 80]]",,80', "anomalous steps 70 to 80 of P, and test/P.npy has steps 0 to 79"),
        ('P,SMAP,"[[70]]",,80', r"row 0 of labeled_anomalies.csv has the anomalous steps '\[\[70\]\]'"),
        ('P,SMAP,"[[7.5, 9]]",,80', r"row 0 of labeled_anomalies.csv has the anomalous steps '\[\[7.5, 9\]\]'"),
        (f'P,SMAP,"{"[" * 100_000}",,80', r"row 0 of labeled_anomalies.csv has the anomalous steps '\[\["),
        ("P,SMAP,[],,80\n\xff,,,,,,", "labeled_anomalies.csv is no table that can be read"),
        ("packed,SMAP,[],,80", "train/packed.npy is an archive of arrays"),
        ("../P,SMAP,[],,80", "the channel '../P', which is no name of a file"),
        ("objects,SMAP,[],,80", "train/objects.npy is no array that can be read safely"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path: Path, listed: str, message: str) -> None:
    path = folder(tmp_path, listed, P=3, wide=5)
    np.save(path / "train" / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with (path / "train" / "packed.npy").open("wb") as file:
        np.savez(file, steps=np.zeros((60, 3)))
    with pytest.raises(DataError, match=message):
        read_telemetry(path, name="craft", window=4)


def test_real_channels_have_the_labels_of_their_steps(tmp_path: Path) -> None:
    source = Path(os.environ.get("ASSAY_DATA_MIRROR", "")) / "smap_msl_f32.npz"
    if not source.is_file():
        pytest.skip("needs the mirror folder")
    lines = []
    for part in ("train", "test"):
        (tmp_path / part).mkdir()
    with np.load(source) as arrays:
        for channel in ("A-1", "E-1"):
            for part in ("train", "test"):
                np.save(tmp_path / part / f"{channel}.npy", arrays[f"SMAP/{channel}/{part}"])
            labels = np.r_[0, arrays[f"SMAP/{channel}/label"], 0].astype(int)
            edges = np.flatnonzero(np.diff(labels))
            spans = [[int(first), int(last) - 1] for first, last in zip(edges[::2], edges[1::2], strict=True)]
            lines.append(f'{channel},SMAP,"{spans}",,{len(labels) - 2}')
    (tmp_path / "labeled_anomalies.csv").write_text(LIST.format("\n".join(lines)))
    dataset = read_telemetry(tmp_path, name="craft", window=32)
    assert dataset.card.modality.shape == (32, 25)  # type: ignore[attr-defined]
    assert 0.005 < (dataset.data.labels == 1).mean() < 0.2
