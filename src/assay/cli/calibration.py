"""Commands about decisions: ``assay score``, ``assay label`` and ``assay reweight``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli.common import as_json, find_project, reading_options, require_writable, runner_options

if TYPE_CHECKING:
    from assay.data.dialects import Dialect
    from assay.scorer.batch import ScoredFile
    from assay.scorer.scorer import Scorer


@click.command("score")
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("tag", required=False)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    required=True,
    help="Where to write the result: .csv or .parquet; or, of a folder of Parquet files, a new folder.",
)
@click.option("--eps", type=float, help="Flag rows with p <= EPS; default: the scorer's own eps.")
@click.option("--fdr", type=float, help="Instead: of the flagged rows at most this share is normal, on average.")
@click.option("--id", "id_column", metavar="COLUMN", help="Ids of rows, which decide ties where they are randomised.")
@click.option(
    "--explain",
    type=click.IntRange(1),
    metavar="N",
    help="For each flagged row: the N columns that add most to its score, and its p-value without the first.",
)
@runner_options
@reading_options
@as_json
def score_command(
    file: Path,
    tag: str | None,
    out: Path,
    eps: float | None,
    fdr: float | None,
    id_column: str | None,
    explain: int | None,
    runner: str | None,
    address: str | None,
    dialect: Dialect,
    as_json: bool,
) -> None:
    """Score the rows of FILE, or a folder of images; without TAG, by the champion of the dataset in params.yaml."""
    if eps is not None and fdr is not None:
        raise click.UsageError("give --eps or --fdr, not both")
    to_folder = file.is_dir() and out.suffix not in (".csv", ".parquet")
    if not to_folder and out.suffix not in (".csv", ".parquet"):
        raise click.UsageError(f"--out {out} must end in .csv or .parquet")
    if not to_folder and (runner or address):
        raise click.UsageError("--runner and --address are for a folder of Parquet files and --out FOLDER")
    if file.resolve() in (out.resolve(), *out.resolve().parents):
        raise click.UsageError(f"--out {out} is {file} itself, or in it; give another place for the result")
    require_writable(out / "part" if to_folder else out)
    project = find_project()
    from assay.interruption import interruptible
    from assay.project.scorers import find_packaged
    from assay.scorer.batch import score_file
    from assay.scorer.loading import load_scorer

    packaged = find_packaged(tag or project.dataset, project.root)
    scorer = load_scorer(packaged.folder, packaged.statement.id)
    options: dict[str, Any] = {"eps": eps, "fdr": fdr, "id_column": id_column, "explain": explain or 0}
    with interruptible():
        if to_folder:
            from assay.runs.partitions import score_folder

            place = (packaged.folder, packaged.statement.id)
            outcome = score_folder(project, place, file, out, runner=runner, address=address, **options)
        else:
            outcome = score_file(scorer, file, out, dialect=dialect, **options)
    rule = outcome.rule
    if as_json:
        summary = {
            "scorer": scorer.tag,
            "statement": scorer.statement.id,
            "rows": outcome.n_rows,
            "flagged": outcome.n_flagged,
            "out": str(out),
        }
        bands = None if rule.eps is None else scorer.fpr_bands(rule.eps)
        decision: dict[str, object] = {"eps": rule.eps, "fdr": rule.fdr, "fpr_bands": bands}
        decision |= {"false_alarms_at_most": outcome.false_alarms, "note": outcome.note}
        click.echo(json.dumps(summary | decision, indent=2))
        return
    _print_outcome(outcome, scorer, out)


def _print_outcome(outcome: ScoredFile, scorer: Scorer, out: Path) -> None:
    """Print how many rows were flagged, by which rule, and how many of them may be false alarms."""
    from assay.calibration.calibrators.promise import band_sentence
    from assay.scorer.batch import DELTA

    rule = outcome.rule
    by = f"p <= {rule.eps:g}" if rule.fdr is None else f"a false discovery rate of {rule.fdr:g}"
    click.echo(f"{out}: {outcome.n_flagged} of {outcome.n_rows} rows flagged at {by} by {scorer.tag}")
    if rule.eps is not None:
        click.echo(band_sentence(scorer.fpr_bands(rule.eps), rule.eps))
    if outcome.n_flagged and outcome.false_alarms == outcome.n_flagged:
        click.echo(
            f"how many of them are false alarms cannot be bounded: {scorer.calibrator.n_rows} calibration rows are too "
            "few for a batch of this size, or too few rows stand out"
        )
    elif outcome.n_flagged and outcome.false_alarms is not None:
        are = "is a false alarm" if outcome.false_alarms == 1 else "are false alarms"
        click.echo(
            f"at most {outcome.false_alarms} of them {are}, with {1 - DELTA:.0%} confidence over draws of calibration "
            "rows and batch; that holds even if the rate was chosen after seeing the p-values"
        )
    if outcome.note:
        click.echo(outcome.note)


@click.command("label")
@click.option("--budget", type=click.IntRange(1), default=50, show_default=True, help="Rows with the highest scores.")
@click.option(
    "--sample",
    type=click.IntRange(0),
    default=0,
    show_default=True,
    help="Additional rows picked at random, to estimate how many anomalies are left.",
)
def label_command(budget: int, sample: int) -> None:
    """List the calibration rows worth labelling, to undo what contamination of them does.

    Fill in the column `label` of the file (1 anomaly, 0 normal) and run `assay run`: labelled anomalies are left out
    of the calibration, which regains power.
    """
    project = find_project()
    from assay.runs.questions import ask

    with project.lock():
        questions = ask(project, budget=budget, sample=sample)
    path = questions.path.relative_to(project.root)
    click.echo(f"{path}: {questions.open} rows to label, {questions.answered} labelled already")
    for line in questions.lines:
        click.echo(line)


@click.command("reweight")
@click.argument("file", type=click.Path(path_type=Path), required=False)
@click.option("--clear", is_flag=True, help="Calibrate without weights again.")
@reading_options
def reweight_command(file: Path | None, clear: bool, dialect: Dialect) -> None:
    """Weight the calibration towards the rows of FILE: unlabelled rows as the scorer meets them now.

    For covariate shift: the distribution of the inputs has changed, but which inputs are normal has not. The next
    `assay run` calibrates with weights estimated from a sample of the rows.

    Anomalies among the rows cost power: with one in ten along the shift it fell from .20 to .15. And weights model a
    shift of means alone: a run refuses rows that are spread much more widely than the calibration rows.
    """
    if (file is None) != clear:
        raise click.UsageError("give a FILE of current rows, or --clear")
    project = find_project()
    from assay.data.card import read_card
    from assay.data.target import take_columns, target_path, write_target
    from assay.parts import write_bytes

    project.require_dataset(project.dataset)
    card = read_card(project.data)
    path = target_path(project.root, project.dataset)
    with project.lock():
        if file is None:
            write_bytes(path, b"")
            click.echo(f"{path.relative_to(project.root)}: empty; the next `assay run` calibrates without weights")
            return
        rows = take_columns(file, card, dialect)
        kept = write_target(path, rows.table(), seed=project.config.sections["calibrate"]["seed"])
    click.echo(
        f"{path.relative_to(project.root)}: {kept} of {len(rows.rows)} rows; the next `assay run` weights the "
        "calibration towards them. Anomalies among them cost power: take out those that you know. Commit the file "
        "with the run"
    )
