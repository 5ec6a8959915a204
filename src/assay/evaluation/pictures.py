"""Pictures of diagnostics, each about 600 pixels wide and drawn only from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from assay.arrays import Floats
from assay.evaluation.curves import BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from assay.evaluation.curves import Curves
    from assay.evaluation.diagnostics import HardnessTrend, MartingalePath, PowerCurve
    from assay.evaluation.rates import BandedRates

_NORMAL, _ANOMALY, _BAND, _GUIDE = "#4477aa", "#cc6677", "#bbccee", "#555555"
SERIES = (("#4477aa", "o"), ("#cc6677", "s"), ("#117733", "^"), ("#999933", "D"), ("#aa4499", "v"))
STYLES = ("-", ":", "-.")
SIZE = (6.0, 3.2)
RATE_TICKS = (0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1)


def hardness_picture(before: HardnessTrend, after: HardnessTrend) -> Figure:
    """Draw the score against hardness, before and after adaptation (CADET fig. 1 and 5, left)."""
    figure = _figure()
    for axes, trend, title in zip(figure.subplots(1, 2), (before, after), ("Before", "After"), strict=True):
        axes.fill_between(trend.hardness, trend.low, trend.high, color=_BAND, linewidth=0, label="10 to 90 %")
        axes.plot(trend.hardness, trend.median, color=_NORMAL, marker="o", markersize=3, label="median")
        strength = "no ranks" if trend.spearman is None else f"rank correlation {trend.spearman:.2f}"
        axes.set_title(f"{title} adapting: {strength}", fontsize=9)
        _finish(axes, xlabel="hardness of normals", ylabel="score")
    figure.axes[0].legend(fontsize=8, frameon=False)
    return figure


def strata_picture(candidates: Mapping[str, BandedRates], eps: float) -> Figure:
    """Draw the false-positive rates of named candidates by hardness stratum, with bands (CADET fig. 5, right)."""
    figure, axes = _axes()
    step = 0.8 / len(candidates)
    strata = sorted({stratum for rates in candidates.values() for stratum in rates.at})
    for number, (name, rates) in enumerate(candidates.items()):
        colour, marker = SERIES[number % len(SERIES)]
        positions = np.array(rates.at) + (number - (len(candidates) - 1) / 2) * step
        height = np.subtract(rates.high, rates.low)
        shown = "95 % band" if number == 0 and np.isfinite(height).any() else None
        axes.bar(positions, height, 0.9 * step, rates.low, color=_BAND, label=shown)
        axes.plot(positions, rates.rate, marker, color=colour, markersize=6, clip_on=False, zorder=3, label=name)
    axes.axhline(eps, color=_GUIDE, linewidth=1, linestyle="--", label=f"eps = {eps:g}")
    _finish(axes, xlabel="hardness stratum (1 = easiest)", ylabel="false-positive rate")
    axes.set_xticks(strata, [f"{stratum:g}" for stratum in strata])
    axes.set_ylim(0, None)
    _legend_above(axes)
    return figure


def histogram_picture(rates: BandedRates) -> Figure:
    """Draw the histogram of p-values of normals: the observed share of each bin divided by the expected one."""
    figure, axes = _axes()
    edges = np.array([0.0, *rates.at])
    expected = np.array(rates.expected)
    relative, low, high = (np.divide(values, expected) for values in (rates.rate, rates.low, rates.high))
    if np.isfinite(low).any():
        low, high = np.r_[low, low[-1]], np.r_[high, high[-1]]
        axes.fill_between(edges, low, high, step="post", color=_BAND, linewidth=0, label="95 % band")
    axes.stairs(relative, edges, color=_NORMAL, linewidth=1.5, baseline=None, label="normals")
    axes.axhline(1, color=_GUIDE, linewidth=1, linestyle="--", label="as they should be")
    _finish(axes, xlabel="p-value", ylabel="frequency (1 = expected)")
    axes.set(xlim=(0, 1), ylim=(0, None))
    _legend_above(axes)
    return figure


def reliability_picture(rates: BandedRates) -> Figure:
    """Draw the false-positive rate against eps, with its band; both axes have a square-root scale."""
    figure, axes = _axes()
    if np.isfinite(rates.low).any():
        axes.fill_between(rates.at, rates.low, rates.high, color=_BAND, linewidth=0, label="95 % band")
    axes.plot(rates.at, rates.at, color=_GUIDE, linewidth=1, linestyle="--", label="rate = eps")
    axes.plot(rates.at, rates.rate, color=_NORMAL, marker="o", markersize=3, label=f"{max(rates.n):,} normals")
    _finish(axes, xlabel="eps", ylabel="false-positive rate")
    _root_scale(axes, "x", max(rates.at))
    _root_scale(axes, "y", 1.05 * np.nanmax([*rates.at, *rates.rate, *rates.high]))
    _legend_above(axes)
    return figure


def power_picture(power: PowerCurve, eps: float) -> Figure:
    """Draw the share of anomalies flagged against eps; the eps axis has a square-root scale."""
    figure, axes = _axes()
    label = f"{power.n:,} anomal{'y' if power.n == 1 else 'ies'}"
    axes.plot(power.eps, power.power, color=_ANOMALY, marker="s", markersize=3, label=label)
    axes.plot(power.eps, power.eps, color=_GUIDE, linewidth=1, linestyle="--", label="flagging at random")
    axes.axvline(eps, color=_GUIDE, linewidth=1, linestyle=":", label=f"eps = {eps:g}")
    _finish(axes, xlabel="eps", ylabel="share of anomalies flagged")
    _root_scale(axes, "x", max(*power.eps, eps))
    axes.set_ylim(-0.02, 1.02)
    _legend_above(axes)
    return figure


def path_picture(path: MartingalePath) -> Figure:
    """Draw a test martingale over the rows of a stream, its threshold, and the alarm if there is one."""
    figure, axes = _axes()
    axes.plot(path.row, path.log10_value, color=_NORMAL, label="test martingale")
    threshold = f"alarm at {10**path.log10_threshold:,.0f}"
    axes.axhline(path.log10_threshold, color=_GUIDE, linewidth=1, linestyle="--", label=threshold)
    if path.alarm is not None:
        axes.axvline(path.alarm, color=_ANOMALY, linewidth=1, linestyle=":")
        axes.plot(path.alarm, path.log10_threshold, color=_ANOMALY, marker="s", label=f"alarm in row {path.alarm:,}")
    _finish(axes, xlabel="row of the stream", ylabel="evidence, log10")
    _legend_above(axes)
    return figure


def heat_map_picture(images: Floats, heat_maps: Floats) -> Figure:
    """Return images (n, h, w, 1 or 3), all on one scale, and below them their heat maps (n, h, w), also on one."""
    figure = _figure((1.4 * len(images) + 0.4, 3.2))
    axes = figure.subplots(2, len(images), squeeze=False)
    darkest, lightest, most = float(images.min()), float(images.max()), float(heat_maps.max())
    shown = (images - darkest) / ((lightest - darkest) or 1.0)
    for column, (image, heat_map) in enumerate(zip(shown, heat_maps, strict=True)):
        axes[0, column].imshow(image, cmap="gray", vmin=0, vmax=1)
        axes[1, column].imshow(heat_map, cmap="inferno", vmin=0, vmax=most)
    for each in axes.flat:
        each.set_axis_off()
    return figure


def curves_picture(candidates: Mapping[str, Curves]) -> Figure:
    """Draw ROC, precision-recall and reliability curves and the p-values of named candidates, 900 pixels wide."""
    figure = _figure((9.0, 7.0))
    panels = figure.subplots(2, 2).ravel()
    names = ("roc", "precision_recall", "reliability", "p_values")
    labels = (
        *(("false-positive rate", "true-positive rate"), ("recall", "precision")),
        *(("eps", "false-positive rate"), ("p-value of normals", "share (dashed: uniform)")),
    )
    for axes, name, (xlabel, ylabel) in zip(panels, names, labels, strict=True):
        for number, (candidate, curves) in enumerate(candidates.items()):
            colour, style = SERIES[number % len(SERIES)][0], STYLES[number // len(SERIES) % len(STYLES)]
            x, y = getattr(curves, name)
            axes.plot(x, y, color=colour, linestyle=style, linewidth=1, label=candidate)
        if name in ("roc", "reliability"):
            axes.plot((0, 1), (0, 1), color=_GUIDE, linewidth=1, linestyle="--")
        if name == "p_values":
            axes.axhline(1 / BINS, color=_GUIDE, linewidth=1, linestyle="--")
        _finish(axes, xlabel=xlabel, ylabel=ylabel)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, None if name == "p_values" else 1.01))
    handles, shown = panels[0].get_legend_handles_labels()
    figure.legend(handles, shown, fontsize=7, frameon=False, ncols=4, loc="outside lower center")
    return figure


def _figure(size: tuple[float, float] = SIZE) -> Figure:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=100, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _axes() -> tuple[Figure, Axes]:
    figure = _figure()
    return figure, figure.add_subplot()


def _finish(axes: Axes, **labels: Any) -> None:
    axes.set(**labels)
    axes.xaxis.label.set_fontsize(9)
    axes.yaxis.label.set_fontsize(9)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _legend_above(axes: Axes) -> None:
    axes.legend(fontsize=8, frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _root_scale(axes: Axes, axis: str, upper: float) -> None:
    ticks = [tick for tick in RATE_TICKS if tick <= upper]
    functions = (lambda x: np.sqrt(np.maximum(x, 0)), np.square)
    getattr(axes, f"set_{axis}scale")("function", functions=functions)
    getattr(axes, f"set_{axis}lim")(0, upper)
    getattr(axes, f"set_{axis}ticks")(ticks, [f"{tick:g}" for tick in ticks])
