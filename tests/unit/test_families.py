"""Everything registered that is no detector (those have a contract of their own): what is wrong with it is said."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.damage import assert_damaged_parts_are_refused, assert_wrong_parameters_are_refused, crafted_parts

from assay.calibration.adapters.outputs import Outputs
from assay.calibration.adapters.registry import ADAPTERS, load_adapter, make_adapter
from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.calibration.calibrators.cross import CrossCalibrator
from assay.calibration.calibrators.grouped import GroupedCalibrator
from assay.calibration.calibrators.mondrian import MondrianCalibrator
from assay.calibration.calibrators.registry import CALIBRATORS, load_calibrator
from assay.calibration.calibrators.weighted import DensityRatio, WeightedCalibrator, load_ratio
from assay.calibration.hardness import Strata, load_strata
from assay.calibration.streams.martingale import MARTINGALES, LargePValues, Power, SimpleJumper, load_martingale
from assay.calibration.streams.monitor import Monitor, load_monitor
from assay.data.modalities.registry import MODALITIES, load_null_model, load_scaler, modality_class, modality_classes
from assay.errors import ConfigError, DataError, InputError, ScorerError
from assay.parts import Part

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(60, 6)).astype(np.float32)
SCORES, GROUPS = RNG.normal(size=60), np.arange(60) % 5
CODES = RNG.normal(size=(2, 60, 3))
OUTPUTS = Outputs(SCORES, np.abs(RNG.normal(size=60)), lambda: CODES)
FEW = Outputs(SCORES[:5], SCORES[:5], lambda: CODES[:, :5])
MODALITY_CLASSES = {name: modality_class(name) for name in MODALITIES}
SHAPED = {name: cls((3, 2) if cls.sides else None) for name, cls in MODALITY_CLASSES.items()}

Load = Callable[[Part], Any]
FITTED: dict[str, tuple[Load, Any]] = {
    **{f"scaler of {name}": (load_scaler, one.scaler().fit(np.abs(ROWS).round())) for name, one in SHAPED.items()},
    **{f"null model of {name}": (load_null_model, one.null_model().fit(np.abs(ROWS))) for name, one in SHAPED.items()},
    "strata": (load_strata, Strata.fit(SCORES)),
    **{f"adapter {name}": (load_adapter, make_adapter(name, {}).fit(OUTPUTS)) for name in ADAPTERS},
    **{f"adapter {name}, without enough rows": (load_adapter, make_adapter(name, {}).fit(FEW)) for name in ADAPTERS},
    "calibrator": (load_calibrator, ConformalCalibrator().fit(SCORES)),
    "calibrator within strata": (load_calibrator, MondrianCalibrator("stratum").fit(SCORES, GROUPS)),
    "calibrator within categories": (load_calibrator, MondrianCalibrator("category").fit(SCORES, GROUPS.astype(str))),
    "calibrator of groups": (load_calibrator, GroupedCalibrator().fit(SCORES, GROUPS)),
    "calibrator with weights": (load_calibrator, WeightedCalibrator().fit(SCORES, np.ones(60))),
    "calibrator of folds": (load_calibrator, CrossCalibrator().fit([SCORES[:30], SCORES[30:]])),
    "density ratio": (load_ratio, DensityRatio.fit(ROWS[:, :1], ROWS[:, 1:2], seed=0)),
    "martingale of jumps": (load_martingale, SimpleJumper()),
    "martingale of powers": (load_martingale, Power()),
    "martingale of large p-values": (load_martingale, LargePValues(Power(), share=0.2)),
    "monitor": (load_monitor, Monitor.start(SCORES, seed=0)),
    "monitor with bounded memory": (load_monitor, Monitor.start(SCORES, seed=0, memory=8)),
}


def test_every_kind_is_among_them() -> None:
    kinds = {fitted.to_part().kind for _, fitted in FITTED.values()}
    of_modalities = {part.kind for one in modality_classes() for part in (one.scaler_class, one.null_model_class)}
    assert kinds >= {*of_modalities, *ADAPTERS, *CALIBRATORS, *MARTINGALES}


@pytest.mark.parametrize("name", FITTED)
def test_damaged_parts_are_refused(name: str) -> None:
    load, fitted = FITTED[name]
    noun = next(noun for noun in ("null model", "density ratio", name.split()[0]) if name.startswith(noun))
    assert_damaged_parts_are_refused(noun, load, fitted.to_part())


@pytest.mark.parametrize("name", [name for name in FITTED if name.startswith(("scaler", "null model"))])
def test_crafted_scalers_and_null_models_are_refused_or_give_numbers(name: str) -> None:
    load, fitted = FITTED[name]
    for what, crafted in crafted_parts(fitted.to_part()):
        try:
            loaded = load(crafted)
            made = loaded.transform(np.abs(ROWS)) if hasattr(loaded, "transform") else loaded.hardness(np.abs(ROWS))
        except (ScorerError, DataError, InputError):  # of another width
            continue
        assert np.isfinite(made).all(), what


@pytest.mark.parametrize("name", ["calibrator", "calibrator of groups", "calibrator with weights"])
def test_crafted_calibrators_are_refused_or_give_p_values(name: str) -> None:
    load, fitted = FITTED[name]
    side = np.ones(60) if "weights" in name else None
    n_refused = 0
    for what, crafted in crafted_parts(fitted.to_part()):
        try:
            p_values = load(crafted).p_values(SCORES, side)
        except ScorerError:
            n_refused += 1
            continue
        assert ((p_values > 0) & (p_values <= 1)).all(), what
    assert n_refused > 0


@pytest.mark.parametrize(
    ("name", "config", "arrays", "words"),
    [
        ("calibrator", {}, {"scores": np.float32([2, 1])}, "not in increasing order"),
        ("calibrator", {}, {"scores": np.float32([1, np.nan])}, "NaN"),
        ("calibrator within strata", {"keys": [0, 1, 2, 4, 3]}, {}, "keys are not in increasing order"),
        ("calibrator within strata", {"keys": [0, 1]}, {}, "keys are not in increasing order, or not as many"),
        ("calibrator within strata", {"keys": [0, 1, 2, 3, "4"]}, {}, "a list of integers, or of texts"),
        ("calibrator within strata", {}, {"sizes": np.int64([12, 12, 12, 12, 11])}, "sizes are not those of"),
        ("calibrator of folds", {}, {"sizes": np.int64([60])}, "2 or more references"),
        ("calibrator of folds", {}, {"sizes": np.int64([61, -1])}, "sizes are not those of"),
        ("calibrator of groups", {}, {"groups": np.ones(60, dtype=np.int32)}, "not numbered from 0 on"),
        ("calibrator with weights", {}, {"weights": np.zeros(60, dtype=np.int64)}, "negative, or all 0"),
        ("strata", {"n_strata": 3}, {}, "not those of 3 strata"),
        ("strata", {}, {"edges": np.array([3.0, 2.0, 1.0])}, "in increasing order"),
        ("null model of series", {"series_shape": [3, 4]}, {}, "3 steps and 4 channels"),
        ("adapter ares", {"k": 60}, {}, "k is 60, but there are 60 stored rows"),
        ("adapter cadet", {"quantile": 1}, {}, "quantile is 1; it must be a number between 0 and 1"),
        ("adapter cadet", {"max_rows": 25.5}, {}, "max_rows is 25.5; it must be an integer >= 20"),
        ("martingale of large p-values", {"share": 0}, {}, "share is 0; it must be a number between 0 and 1"),
        (
            "martingale of large p-values",
            {"inner": {"kind": "other", "config": {}}},
            {},
            "martingale 'other' is unknown",
        ),
        ("monitor", {"threshold": 0.5}, {}, "threshold is 0.5; it must be a finite number > 1"),
        ("monitor", {"past": {"kind": "other", "config": {}}}, {}, "past scores 'other' is unknown"),
        (
            "monitor",
            {},
            {"past.scores": np.zeros(3)},
            "monitor 'monitor': past scores 'all': its array 'scores' is of float64",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(
    name: str, config: dict[str, Any], arrays: dict[str, Any], words: str
) -> None:
    load, fitted = FITTED[name]
    part = fitted.to_part()
    with pytest.raises(ScorerError) as caught:
        load(Part(part.kind, {**part.config, **config}, {**part.arrays, **arrays}))
    assert words in str(caught.value)
    assert "damaged" in str(caught.value)


@pytest.mark.parametrize("name", sorted(ADAPTERS))
def test_wrong_parameters_of_adapters_are_refused(name: str) -> None:
    cls = type(make_adapter(name, {}))
    for make in (lambda params: make_adapter(name, params), lambda params: cls(**params)):
        assert_wrong_parameters_are_refused(f"adapter {name!r}", cls, make)
    with pytest.raises(ConfigError, match=f"adapter {name!r} has no parameter 'odd'; it has "):
        make_adapter(name, {"odd": 1})


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        (
            "cadet",
            {"quantile": "x"},
            "adapter 'cadet': quantile is 'x'; it must be a number between 0 and 1, both excluded",
        ),
        ("cadet", {"seed": "a"}, "adapter 'cadet': seed is 'a'; it must be an integer from 0 to 4294967295"),
        ("ares", {"max_rows": 25.5}, "adapter 'ares': max_rows is 25.5; it must be an integer >= 20"),
        ("ares", {"neighbours": "many"}, "adapter 'ares': neighbours is 'many'; it must be 'auto', or an integer >= 1"),
        (
            "ares",
            {"contamination": 1},
            "adapter 'ares': contamination is 1; it must be 'auto', or a number from 0 to 0.25",
        ),
        ("auto", {}, "adapter 'auto' is no more: it took 'none' nearly always; write 'none' in its place"),
        ("cadet", {"error": "square"}, "adapter 'cadet': error is 'square'; it must be one of 'norm', 'log'"),
        ("magic", {}, "there is no adapter 'magic'; there are ares, cadet, none"),
    ],
)
def test_a_wrong_adapter_is_told_in_one_sentence(name: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_adapter(name, params)
    assert str(caught.value).startswith(said)


def test_numbers_of_numpy_are_kept_as_plain_ones() -> None:
    given = {"quantile": np.float32(0.5), "max_rows": np.int64(30), "seed": np.uint8(3)}
    config = make_adapter("cadet", given).fit(OUTPUTS).to_part().config
    assert {name: config[name] for name in given} == {"quantile": 0.5, "max_rows": 30, "seed": 3}
    assert {type(config[name]) for name in given} == {float, int}


def test_what_mondrian_calibration_goes_by_is_checked() -> None:
    for wrong in ("group", "", None, 1):
        with pytest.raises(ConfigError, match=r"calibrator 'mondrian': side_information is .* 'stratum', 'category'"):
            MondrianCalibrator(wrong)  # type: ignore[arg-type]
