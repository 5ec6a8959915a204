"""The leaderboard of a sweep: means, deviations and ranks of all candidates, and a picture, in one file of HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from assay.evaluation.pictures import SERIES

if TYPE_CHECKING:
    from pandas import DataFrame

CANDIDATE = ["level", "detector", "adapter"]
CASE = ["dataset", "level", "seed"]
SHOWN = {"auroc": "AUROC", "auprc": "AUPRC", "fpr": "FPR at eps", "power": "power"}


def leaders(table: DataFrame) -> DataFrame:
    """Return the standing of each candidate at each level, the best mean rank first.

    Parameters
    ----------
    table : DataFrame
        As in ``results.parquet``.

    Returns
    -------
    DataFrame
        By level, detector and adapter: the mean over datasets of each metric, as a mean over seeds with its deviation
        over seeds (``_sd``, NaN for one seed); ``rank``: the mean over cases (a dataset, level and seed) of the rank by
        AUPRC, 1 the best, where whoever failed is last; ``first`` and ``last``: in how many cases it was that;
        ``cases``, ``failed``; and means over cases of ``seconds`` and ``cpu_seconds``.
    """
    table = table[table["level"].notna()]
    cases = table.groupby(CASE)["auprc"]
    table = table.assign(rank=cases.rank(ascending=False, na_option="bottom"), failed=table["auprc"].isna())
    table["first"] = table["auprc"].notna() & (table["auprc"] == cases.transform("max"))
    table["last"] = table["failed"] | (table["auprc"] == cases.transform("min"))
    by = table.groupby(CANDIDATE)
    found = by.agg(rank=("rank", "mean"), first=("first", "sum"), last=("last", "sum"))
    of_seeds = table.groupby([*CANDIDATE, "seed"])[list(SHOWN)].mean().groupby(CANDIDATE)
    for name in SHOWN:
        found[name], found[f"{name}_sd"] = of_seeds[name].mean(), of_seeds[name].std()
    found["cases"], found["failed"] = by.size(), by["failed"].sum()
    found[["seconds", "cpu_seconds"]] = by[["seconds", "cpu_seconds"]].mean()
    return found.sort_values(["level", "rank"], kind="stable")


def page(name: str, table: DataFrame) -> str:
    """Return the page of a sweep with the rows of its table."""
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("assay.runs", "."), autoescape=True, trim_blocks=True)
    standing = leaders(table)
    return environment.get_template("sweep.html").render(
        name=name,
        table=table,
        levels=[
            (level, _standing(part), _by_dataset(table[table["level"] == level]))
            for level, part in standing.groupby("level")
        ],
        failures=table[table["reason"].notna()][["dataset", "detector", "level", "seed", "reason"]]
        .drop_duplicates(["dataset", "detector", "level", "reason"])
        .astype(object)
        .to_dict("records"),
        probes=sorted(set(table.loc[table["evidence"] == "probes", "dataset"])),
        picture=_picture(standing) if len(standing) else None,
    )


def _standing(part: DataFrame) -> list[dict[str, Any]]:
    """Return the rows of the table of a level as texts."""
    rows = []
    for row in part.reset_index().to_dict("records"):
        shown = {title: _spread(row[key], row[f"{key}_sd"]) for key, title in SHOWN.items()}
        counts = {key: f"{int(row[key])}" for key in ("first", "last", "failed", "cases")}
        spent = {"train s": f"{row['seconds']:.2f}", "CPU s": f"{row['cpu_seconds']:.2f}"}
        rows.append(
            {
                "candidate": f"{row['detector']}+{row['adapter']}",
                "rank": f"{row['rank']:.2f}",
                **shown,
                **counts,
                **spent,
            }
        )
    return rows


def _by_dataset(part: DataFrame) -> list[dict[str, Any]]:
    """Return AUPRC of each candidate on each dataset as texts: mean and deviation over seeds."""
    named = part.assign(candidate=part["detector"] + "+" + part["adapter"])
    texts: dict[str, dict[str, Any]] = {}
    grouped: Any = named.groupby(["dataset", "candidate"])["auprc"]
    for (dataset, candidate), values in grouped:
        texts.setdefault(dataset, {"dataset": dataset})[candidate] = _spread(values.mean(), values.std())
    return list(texts.values())


def _spread(mean: float, deviation: float) -> str:
    return "-" if mean != mean else f"{mean:.3f}" + ("" if deviation != deviation else f" ± {deviation:.3f}")


def _picture(standing: DataFrame) -> str:
    """Draw AUPRC of each candidate by level, with deviations over seeds; returns it as a data URI."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from assay.runs.report import picture_source

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    grouped: Any = standing.reset_index().groupby(["detector", "adapter"], sort=False)
    for number, (candidate, part) in enumerate(grouped):
        colour, marker = SERIES[number % len(SERIES)]
        style = ("-", "--", ":", "-.")[number // len(SERIES) % 4]
        part = part.sort_values("level")
        axes.errorbar(
            part["level"],
            part["auprc"],
            part["auprc_sd"].fillna(0),
            linestyle=style,
            color=colour,
            marker=marker,
            markersize=4,
            capsize=2,
            label="+".join(map(str, candidate)),
        )
    axes.set(xlabel="injected contamination", ylabel="AUPRC, mean over datasets")
    axes.legend(fontsize=8, frameon=False, loc="upper left", bbox_to_anchor=(1, 1))
    return picture_source(figure)
