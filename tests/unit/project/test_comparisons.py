"""What was compared on which gate rows is known from the file, in clones, and from the log, where the file lacks it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from assay.errors import ScorerError
from assay.eventlog import EventLog
from assay.project.comparisons import (
    Comparison,
    add_comparison,
    comparisons_path,
    read_comparisons,
    sample_of,
    words_of,
)
from assay.project.deployment import read_deployments

ONE = Comparison(
    challenger="pumps:bbbbbbbbbbbb-111111111111",
    champion="pumps:aaaaaaaaaaaa-222222222222",
    rule="superior",
    first=None,
    evidence="labels",
    anomalies=21,
    normals=100,
    rows=("01", "02"),
    difference=0.25,
    low=-0.05,
    high=0.55,
    p_value=0.125,
    level=0.09,
    promoted=False,
)


@pytest.fixture
def events(tmp_path: Path) -> EventLog:
    return EventLog(tmp_path / ".assay" / "events.jsonl")


def test_a_clone_knows_by_the_file_and_this_machine_by_the_log(tmp_path: Path, events: EventLog) -> None:
    add_comparison(tmp_path, "pumps", ONE, events)
    add_comparison(tmp_path, "pumps", replace(ONE, level=0.0144), events)
    add_comparison(tmp_path, "valves", ONE, events)
    found = read_comparisons(tmp_path, "pumps", events)
    assert [each.level for each in found] == [0.09, 0.0144]
    assert [replace(each, time="") for each in found] == [ONE, replace(ONE, level=0.0144)]
    assert read_comparisons(tmp_path, "pumps", ()) == found
    path = comparisons_path(tmp_path, "pumps")
    path.write_bytes(path.read_bytes().splitlines(keepends=True)[0])
    assert read_comparisons(tmp_path, "pumps", events) == found
    add_comparison(tmp_path, "pumps", replace(ONE, level=0.008), events)
    assert [each.level for each in read_comparisons(tmp_path, "pumps", ())] == [0.09, 0.0144, 0.008]
    events.check()


def test_the_file_is_not_a_deployment(tmp_path: Path, events: EventLog) -> None:
    add_comparison(tmp_path, "pumps", ONE, events)
    assert read_deployments(tmp_path) == ({}, {})


@pytest.mark.parametrize("line", [b"<<<<<<< HEAD\n", b"{}\n", b'{"rows": 3}\n'])
def test_a_damaged_line_is_named(tmp_path: Path, events: EventLog, line: bytes) -> None:
    add_comparison(tmp_path, "pumps", ONE, events)
    path = comparisons_path(tmp_path, "pumps")
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(ScorerError, match=r"line 2.*both sides"):
        read_comparisons(tmp_path, "pumps", events)


def test_the_same_question_is_of_the_same_scorers_whatever_their_statements() -> None:
    other_statement = replace(ONE, challenger="pumps:bbbbbbbbbbbb-999999999999", level=0.01, promoted=True)
    assert ONE.asks_the_same(other_statement)
    assert not ONE.asks_the_same(replace(ONE, challenger="pumps:cccccccccccc-111111111111"))
    for change in ({"rows": ("01",)}, {"rule": "noninferior"}, {"normals": 101}, {"first": "pumps:dddddddddddd-1"}):
        assert not ONE.asks_the_same(replace(ONE, **change))


def test_a_sample_is_by_content_and_nested_when_rows_are_added() -> None:
    keys = [f"row {i}" for i in range(1_000)]
    assert sample_of(keys) == sample_of(reversed(keys))
    assert len(sample_of(keys)) == 200
    assert len(sample_of([*keys[:150], *keys[:150]])) == 150
    grown = sample_of([*keys, *(f"new {i}" for i in range(1_000))])
    shared = len({*grown} & {*sample_of(keys)})
    assert 70 < shared < 130  # half of the grown rows


def test_words() -> None:
    assert words_of(ONE) == (
        "not shown to be better than the champion pumps:aaaaaaaaaaaa-222222222222, which stays: mean difference +0.250 "
        "standard deviations (90 % interval -0.050 to +0.550), p 0.125 at level 0.09, on 21 gate anomalies ranked "
        "among 100 gate normals"
    )
    first = replace(ONE, rule="noninferior", first="pumps:dddddddddddd-3", promoted=True, evidence="probes")
    assert words_of(first).startswith(
        "not worse than the champion pumps:aaaaaaaaaaaa-222222222222 and the first one, pumps:dddddddddddd-3 by 0.2: "
    )
    assert "on 21 gate synthetic probes" in words_of(first)
    assert "possibly worse" in words_of(replace(first, promoted=False))


def test_the_file_has_sorted_lines_and_the_sample_short_hashes(tmp_path: Path, events: EventLog) -> None:
    add_comparison(tmp_path, "pumps", ONE, events)
    (line,) = comparisons_path(tmp_path, "pumps").read_text().splitlines()
    names = list(json.loads(line))
    assert names == sorted(names)
    assert sample_of(["a", "b"]) == ("433911c6eb0d", "a120d0ad50f1")
