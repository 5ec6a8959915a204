"""Taking people's answers about training rows into a dataset's file of answers, on record."""

from __future__ import annotations

import getpass
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from assay.data.answers import (
    ANSWER_COLUMNS,
    BAD,
    GOOD,
    GROUP,
    ROW,
    ROW_KEY,
    UNSURE,
    answers_content,
    answers_path,
    read_lines,
    read_row_answers,
    require_allowed,
)
from assay.errors import ConfigError, DataError
from assay.hashing import hash_bytes
from assay.parts import is_there
from assay.project.layout import Project
from assay.project.pending import Change
from assay.runs.reviewing import ReviewItem, training_rows_of

GIVEN_COLUMNS = ("question", *(name for name in ANSWER_COLUMNS if name != "when"))


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a file of answers.

    Attributes
    ----------
    path : Path
        The dataset's file of answers.
    counts : dict of str to int
        Rows in it by answer, now.
    new : int
        Rows that the given file has answers about.
    """

    path: Path
    counts: dict[str, int]
    new: int


def open_lines(questions: list[ReviewItem]) -> pd.DataFrame:
    """Return a line for each row that is asked about, without answers: what people, or the page, fill in."""
    parts = [
        question.rows.assign(question=question.name, answer="", asked=question.asked, why=question.why, who="")
        for question in questions
    ]
    return pd.concat(parts, ignore_index=True)[list(GIVEN_COLUMNS)] if parts else pd.DataFrame(columns=GIVEN_COLUMNS)


def require_taken(project: Project, sheet: Path) -> None:
    """Raise `DataError` where a sheet that is to be written anew holds answers that were not taken."""
    if not is_there(sheet):
        return
    lines = read_lines(sheet, GIVEN_COLUMNS)
    filled, earlier = (
        lines[lines["answer"].str.strip() != ""],
        read_row_answers(answers_path(project.root, project.dataset)),
    )
    taken = pd.MultiIndex.from_frame(filled[ROW_KEY]).isin(pd.MultiIndex.from_frame(earlier[ROW_KEY]))
    if not taken.all():
        raise DataError(
            f"{sheet} holds answers that were not taken, about {filled['row_id'].iloc[int(taken.argmin())]!r} for "
            f"instance, and would be written anew; take them with `assay review {sheet}`, or remove it"
        )


def take_answers(project: Project, path: Path) -> Taken:
    """Take a file of answers to the questions of a review into ``answers/<dataset>.csv``, and log that.

    One answer in a group's lines counts for all of them. Lines without an answer are passed over. A row that was judged
    itself keeps that answer when its group gets another one; else a later answer takes the place of an earlier one.

    Raises
    ------
    DataError
        The file cannot be used, holds no answer, or is about rows that are no training rows; nothing is changed.
    ConfigError
        ``dvc.yaml`` does not make the split depend on the answers.
    StageError
        The dataset has not been split yet, or another command holds the project's lock.
    """
    project.require_dataset(project.dataset)
    _require_dependency(project)
    given = _given(path)
    with project.lock():
        file = answers_path(project.root, project.dataset)
        earlier = read_row_answers(file)
        given = _of_training_rows(project, path, given, earlier)
        judged = pd.MultiIndex.from_frame(earlier.loc[earlier["asked"] == ROW, ROW_KEY])
        given = given[~((given["asked"] == GROUP) & pd.MultiIndex.from_frame(given[ROW_KEY]).isin(judged))]
        replaced = pd.MultiIndex.from_frame(earlier[ROW_KEY]).isin(pd.MultiIndex.from_frame(given[ROW_KEY]))
        when = datetime.now(UTC).isoformat(timespec="seconds")
        answers = pd.concat([earlier[~replaced], given.assign(when=when)], ignore_index=True)
        content, counts = answers_content(answers), answers["answer"].value_counts()
        by_answer = {answer: int(counts.get(answer, 0)) for answer in (BAD, GOOD, UNSURE)}
        with Change(project.root) as change:
            change.write(file, content)
            details = {"dataset": project.dataset, "rows": len(given), **by_answer, "file": hash_bytes(content)}
            change.commit("answered", details)
    return Taken(file.relative_to(project.root), by_answer, len(given))


def _given(path: Path) -> pd.DataFrame:
    """Return the answered lines of a file, one for each row."""
    lines = read_lines(path, GIVEN_COLUMNS)
    lines["answer"] = lines["answer"].str.strip().str.lower()
    for number, part in lines[lines["asked"] == GROUP].groupby("question"):
        answers = sorted(set(part["answer"]) - {""})
        if len(answers) > 1:
            raise DataError(
                f"{path}: question {number} has the answers {' and '.join(answers)}; give one for its group"
            )
        lines.loc[part.index, "answer"] = answers[0] if answers else ""
    lines = lines[lines["answer"] != ""]
    if lines.empty:
        raise DataError(f"{path} holds no answer; fill in the column answer: bad, good or unsure")
    require_allowed(path, lines)
    who = lines["who"].str.split().str.join(" ")
    return lines.assign(who=who.where(who != "", _user()), why=lines["why"].str.split().str.join(" "))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user without a name
        return ""


def _of_training_rows(project: Project, path: Path, given: pd.DataFrame, earlier: pd.DataFrame) -> pd.DataFrame:
    """Return the lines with the ids of their rows, which a spreadsheet program may have made numbers or dates of."""
    rows = training_rows_of(project, earlier).rows[[*ROW_KEY, "row_id"]].astype("str")
    ids, keys = rows.set_index(ROW_KEY)["row_id"], pd.MultiIndex.from_frame(given[ROW_KEY])
    unknown = ~keys.isin(ids.index)
    if unknown.any():
        raise DataError(
            f"{path}: {given['row_id'].iloc[int(unknown.argmax())]!r} is no training row of {project.dataset} with "
            "that content; nothing was changed. Ask anew with `assay review`; `assay label` asks about calibration rows"
        )
    return given.assign(row_id=ids.reindex(keys).to_numpy())


def _require_dependency(project: Project) -> None:
    if f"answers/{project.dataset}.csv" not in project.stage("split").inputs:
        raise ConfigError(
            "dvc.yaml: the stage split does not depend on the answers, so that runs would ignore them; run `assay "
            'migrate`, or add the line - "answers/${item}.csv" to its deps'
        )
