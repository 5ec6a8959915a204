"""Pictures of diagnostics: what they show, and that numbers alone decide their bytes."""

from __future__ import annotations

import io
import json
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from assay.calibration.calibrators.conformal import ConformalCalibrator
from assay.evaluation.diagnostics import Diagnostics, diagnose, thin_path
from assay.evaluation.pictures import (
    hardness_picture,
    heat_map_picture,
    histogram_picture,
    path_picture,
    power_picture,
    reliability_picture,
    strata_picture,
)
from assay.evaluation.rates import References
from assay.parts import canonical_json


def diagnosed(*, law=True, n=300, path=None):
    rng = np.random.default_rng(0)
    hardness, scores = rng.gamma(2.0, size=n), rng.normal(size=200 + n)
    made = diagnose(
        ConformalCalibrator().fit(scores[:200]).p_values(scores[200:]),
        scores=scores[200:] + hardness,
        adapted=np.r_[np.inf, scores[201:]],
        hardness=hardness,
        strata=np.arange(n) % 4,
        references=References.shared(200, n) if law else None,
        eps=0.05,
        seed=0,
        anomalies=rng.random(30) / 10,
        path=thin_path(np.linspace(0, 4, 500) if path is None else path, 100),
    )
    return Diagnostics.from_json(json.loads(canonical_json(made.to_json())))


def pictures(made):
    return {
        "hardness": hardness_picture(made.before, made.after),
        "strata": strata_picture({"none": made.strata, "cadet": made.strata}, made.eps),
        "histogram": histogram_picture(made.histogram),
        "reliability": reliability_picture(made.reliability),
        "power": power_picture(made.power, made.eps),
        "path": path_picture(made.path),
    }


def png(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


LEGENDS = {
    "hardness": {"10 to 90 %", "median"},
    "strata": {"95 % band", "none", "cadet", "eps = 0.05"},
    "histogram": {"95 % band", "normals", "as they should be"},
    "reliability": {"95 % band", "rate = eps", "300 normals"},
    "power": {"30 anomalies", "flagging at random", "eps = 0.05"},
    "path": {"test martingale", "alarm at 100", "alarm in row 251"},
}


def test_pictures_say_what_they_show_at_600_pixels():
    for name, figure in pictures(diagnosed()).items():
        for axes in figure.axes:
            assert axes.get_xlabel()
            assert axes.get_ylabel()
        assert {text.get_text() for text in figure.axes[0].get_legend().get_texts()} == LEGENDS[name]
        assert imread(io.BytesIO(png(figure))).shape[:2] == (320, 600)
        boxes = [text.get_window_extent() for axes in figure.axes for text in (axes.xaxis.label, axes.yaxis.label)]
        boxes += [axes.get_legend().get_window_extent() for axes in figure.axes if axes.get_legend()]
        assert all(box.x0 >= 0 and box.y0 >= 0 and box.x1 <= 601 and box.y1 <= 321 for box in boxes), name


def test_the_same_numbers_give_the_same_bytes():
    first, second = (pictures(diagnosed()) for _ in range(2))
    for name in first:
        assert png(first[name]) == png(second[name])


def test_curves_are_the_numbers():
    made = diagnosed()
    drawn = pictures(made)
    before, after = drawn["hardness"].axes
    np.testing.assert_array_equal(before.lines[0].get_ydata(), made.before.median)
    assert f"{made.before.spearman:.2f}" in before.get_title()
    assert f"{made.after.spearman:.2f}" in after.get_title()
    np.testing.assert_array_equal(drawn["strata"].axes[0].lines[0].get_ydata(), made.strata.rate)
    bars = drawn["strata"].axes[0].patches[:4]
    np.testing.assert_allclose([bar.get_y() for bar in bars], made.strata.low)
    np.testing.assert_allclose([bar.get_y() + bar.get_height() for bar in bars], made.strata.high)
    np.testing.assert_array_equal(drawn["reliability"].axes[0].lines[1].get_ydata(), made.reliability.rate)
    np.testing.assert_array_equal(drawn["power"].axes[0].lines[0].get_ydata(), made.power.power)
    np.testing.assert_array_equal(drawn["path"].axes[0].lines[0].get_ydata(), made.path.log10_value)
    heights = drawn["histogram"].axes[0].patches[0].get_data().values
    np.testing.assert_allclose(heights, np.divide(made.histogram.rate, made.histogram.expected))


def test_there_is_no_band_without_an_exact_law_and_no_mark_without_an_alarm():
    drawn = pictures(diagnosed(law=False, path=np.zeros(5)))
    for name in ("strata", "histogram", "reliability"):
        assert "95 % band" not in {text.get_text() for text in drawn[name].axes[0].get_legend().get_texts()}
    assert {text.get_text() for text in drawn["path"].axes[0].get_legend().get_texts()} == {
        "test martingale",
        "alarm at 100",
    }
    assert all(map(png, drawn.values()))


@pytest.mark.parametrize("n", [1, 5])
def test_few_rows_are_drawn_too(n):
    assert all(map(png, pictures(diagnosed(n=n, path=np.zeros(1))).values()))


def test_pyplot_and_its_global_state_stay_out():
    code = (
        "import sys\nfrom assay.evaluation.diagnostics import MartingalePath\n"
        "from assay.evaluation.pictures import path_picture\n"
        "print('matplotlib' in sys.modules)\npath_picture(MartingalePath((1,), (0.0,), 2.0, None))\n"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\nFalse\n"


def test_images_above_heat_maps_are_drawn_on_one_scale():
    images = np.stack([np.full((6, 6), 20.0), np.full((6, 6), 200.0)])
    images[:, 0, 0] = 0, 255
    figure = heat_map_picture(images, np.arange(72.0).reshape(2, 6, 6))
    dark, light, *maps = [image for axes in figure.axes for image in axes.images]
    assert dark.get_clim() == light.get_clim() == (0, 1)
    assert [float(each.get_array()[1, 1]) for each in (dark, light)] == [20 / 255, 200 / 255]
    assert [each.get_clim() for each in maps] == [(0, 71)] * 2
