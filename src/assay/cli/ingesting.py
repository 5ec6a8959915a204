"""The command ``assay ingest``. Everything heavy is imported inside it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from assay.cli.common import find_project, reading_options

if TYPE_CHECKING:
    from assay.data.columns import Treatment
    from assay.data.dialects import Dialect


@click.command("ingest")
@click.argument("source", metavar="FILE_OR_NAME")
@click.option("--check", "checks", is_flag=True, help="Say what each column of FILE is taken for; change nothing.")
@click.option("--append", "appends", is_flag=True, help="Add the rows of FILE to the dataset as one more batch.")
@click.option("--batch", metavar="ID", help="Id of the batch, with --append; by default that of its content.")
@click.option("--name", help="Name of the dataset, for your own file.")
@click.option("--label", metavar="COLUMN", help="Column of labels: 0 normal, 1 anomaly, empty or -1 unknown.")
@click.option("--id", "id_column", metavar="COLUMN", help="Column of unique row ids.")
@click.option("--group", metavar="COLUMN", help="Column of groups; all normal rows of a group get the same role.")
@click.option("--time", metavar="COLUMN", help="Column to split by time; not with --group.")
@click.option("--category", metavar="COLUMN", help="Column of categories for calibration within categories.")
@click.option("--text", metavar="COLUMN", help="Column of texts: a dataset of documents, of this column alone.")
@click.option(
    "--vectors", metavar="FILE", type=click.Path(path_type=Path), help="Word vectors for --text: GloVe, fastText, .npz."
)
@click.option(
    "--image-size", metavar="HEIGHT WIDTH", type=click.IntRange(1), nargs=2, help="Size that images are resized to."
)
@click.option("--colour", is_flag=True, default=None, help="Keep the colours of images; without it they become grey.")
@click.option(
    "--labels", metavar="FILE", type=click.Path(path_type=Path), help="Table with the label of each file of images."
)
@click.option(
    "--masks", metavar="FOLDER", type=click.Path(path_type=Path), help="Masks: the defective pixels of images."
)
@click.option("--series", metavar="COLUMN", help="Column of times of series: a dataset of their windows.")
@click.option("--entity", metavar="COLUMN", help="Column that tells series apart, with --series.")
@click.option("--window", metavar="STEPS", type=click.IntRange(2), help="Length of windows, with --series.")
@click.option(
    "--stride", metavar="STEPS", type=click.IntRange(1), help="From window to window; by default half a window."
)
@click.option("--categorical", metavar="COLUMN", multiple=True, help="Feature whose numbers are codes of categories.")
@click.option("--impute", metavar="COLUMN", multiple=True, help="Feature that may be missing, though not in this file.")
@click.option("--refuse-missing", metavar="COLUMN", multiple=True, help="Feature that may never be missing.")
@click.option("--leave-out", metavar="COLUMN", multiple=True, help="Column that is not used at all.")
@click.option(
    "--normal", metavar="VALUE", help="The label of normal rows, or folder of normal images; others are anomalies."
)
@click.option(
    "--anomaly", metavar="VALUE", help="The label of anomalies; the others are normal, or unknown by --normal."
)
@reading_options
def ingest_command(
    source: str,
    checks: bool,
    appends: bool,
    batch: str | None,
    categorical: tuple[str, ...],
    impute: tuple[str, ...],
    refuse_missing: tuple[str, ...],
    leave_out: tuple[str, ...],
    **options: Any,
) -> None:
    """Add a CSV or Parquet file, images, or a public dataset by name, to data/ and track it with DVC."""
    from assay.data.columns import Treatment

    treatment = Treatment(categorical, impute, refuse_missing, leave_out)
    series = {name: options.pop(name) for name in ("series", "entity", "window", "stride")}
    images = {name: options.pop(name) for name in ("image_size", "colour", "labels", "masks")}
    if checks:
        _check(Path(source), treatment=treatment, images=images, series=series, **options)
        return
    if batch is not None and not appends:
        raise click.UsageError("--batch names a batch that is added with --append")
    if appends and treatment != Treatment():
        raise click.UsageError("with --append, columns are treated as in the dataset; leave such options out")
    project = find_project()
    from assay.data.card import read_card
    from assay.data.dataset import read_labels
    from assay.openlineage.client import emit_done
    from assay.project.appending import append
    from assay.project.ingest import ingest, load_source

    with project.lock():
        if appends:
            if options.pop("vectors") is not None:
                raise click.UsageError("with --append, words have the vectors that came with the dataset")
            if any(value is not None for value in series.values()):
                raise click.UsageError("with --append, windows are cut as in the dataset; leave such options out")
            folder, arrival = append(project, Path(source), batch=batch, images=images, **options)
            click.echo(f"batch {arrival.batch}: {arrival.rows} rows from {arrival.source}")
        else:
            folder = ingest(
                project, load_source(project, source, treatment=treatment, images=images, series=series, **options)
            )
        card, labels = read_card(folder), read_labels(folder)
        emit_done(project.on(card.name), "ingest")
    click.echo(
        f"{folder.relative_to(project.root)}: {len(labels)} rows x {len(card.columns)} columns, "
        f"{int((labels == 1).sum())} labelled anomalies, {int((labels == -1).sum())} unlabelled\n"
        + "".join(f"{line}\n" for line in card.treatment_lines())
        + f"next: assay run --dataset {card.name}"
    )


def _check(
    path: Path,
    *,
    name: str | None,
    dialect: Dialect,
    treatment: Treatment,
    images: dict[str, Any],
    series: dict[str, Any],
    **options: Any,
) -> None:
    """Print what each column of a table, or what images, are taken for, and raise what `assay ingest` would raise."""
    from assay.data.archives import holds_array
    from assay.data.blocks import read_frame
    from assay.data.checking import COLUMN_ROLES, check_columns, lines_of
    from assay.data.files import dataset_of, names_of_special
    from assay.data.image_datasets import holds_images, image_lines, read_image_dataset
    from assay.data.series_files import read_series, series_columns
    from assay.data.telemetry import holds_telemetry
    from assay.errors import DataError
    from assay.project.ingest import image_options, with_vectors

    if holds_telemetry(path) or holds_array(path, "windows"):
        raise DataError(f"--check is for tables and images; `assay ingest` says itself how it takes {path.name}")
    if holds_images(path):
        kinds = {"normal": options["normal"], "anomaly": options["anomaly"]}
        for line in image_lines(read_image_dataset(path, name=name or "checked", **kinds, **image_options(images))):
            click.echo(line)
        return
    vectors = options.pop("vectors")
    if vectors is not None and options["text"] is None:
        raise DataError("--vectors are vectors of the words of texts; name the column of texts with --text")
    of_series = {role: column for role, column in series.items() if role in COLUMN_ROLES and column is not None}
    plan = series_columns(series, options["text"], options) if any(series.values()) else None
    roles: Any = {role: options.get(role) for role in COLUMN_ROLES} | of_series
    if roles["group"] in of_series.values():
        roles["group"] = None
    frame = read_frame(path, names_of_special(roles), texts=treatment.categorical, dialect=dialect)
    click.echo(f"{path.name}: {len(frame)} rows x {frame.shape[1]} columns")
    for line in lines_of(check_columns(path, frame, roles, treatment, options["normal"], options["anomaly"])):
        click.echo(line)
    if plan is not None:
        labels = {label: options[label] for label in ("normal", "anomaly")}
        dataset = read_series(path, plan, name=name or "checked", treatment=treatment, dialect=dialect, **labels)
    else:
        dataset = dataset_of(path, frame, name=name or "checked", treatment=treatment, **options)
    if vectors is not None:
        with_vectors(dataset, vectors)
    click.echo("`assay ingest` can take it; nothing was changed")
