"""The event log: every entry is bound to the one before it, and a crash costs no more than its own entry."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from assay.errors import TamperedError
from assay.eventlog import EventLog

NAMES = ("run-started", "stage", "stage", "ingested", "run-ended")


@pytest.fixture
def log(tmp_path: Path) -> EventLog:
    """A log of five events."""
    made = EventLog(tmp_path / ".assay" / "events.jsonl")
    for number, name in enumerate(NAMES):
        made.append(name, number=number, text="größe\r\n\u2028 \x85 \x0b")
    return made


def events(log: EventLog) -> list[str]:
    return [event["event"] for event in log]


def lines(log: EventLog) -> list[bytes]:
    return log.path.read_bytes().split(b"\n")[:-1]


def put(log: EventLog, changed: list[bytes]) -> None:
    log.path.write_bytes(b"".join(line + b"\n" for line in changed))


def test_what_was_logged_comes_back_in_order(log: EventLog) -> None:
    log.check()
    assert events(log) == list(NAMES)
    assert [event["number"] for event in log] == [0, 1, 2, 3, 4]
    assert {event["text"] for event in log} == {"größe\r\n\u2028 \x85 \x0b"}
    assert all(event["time"].endswith("+00:00") and event["machine"] for event in log)


def test_each_entry_holds_the_hash_of_the_line_before(log: EventLog) -> None:
    previous = "0" * 64
    for line in lines(log):
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line).hexdigest()
    assert log.head == previous
    assert log.append("more") == log.head != previous


def test_a_log_that_is_not_there_is_empty(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    log.check()
    assert (list(log), log.head, log.last("stage")) == ([], "0" * 64, None)
    assert list(tmp_path.iterdir()) == []


def test_two_readers_see_one_chain(log: EventLog) -> None:
    EventLog(log.path).append("by another process")
    log.append("by this one")
    log.check()
    assert events(log)[-2:] == ["by another process", "by this one"]


def swapped(found: list[bytes], i: int) -> list[bytes]:
    return [*found[:i], found[i + 1], found[i], *found[i + 2 :]]


@pytest.mark.parametrize("place", range(len(NAMES) - 1))
@pytest.mark.parametrize(
    "change",
    [
        lambda found, i: [*found[:i], found[i].replace(b'"number": ', b'"number": 9'), *found[i + 1 :]],
        lambda found, i: [*found[:i], found[i].replace(b", ", b",", 1), *found[i + 1 :]],
        lambda found, i: [*found[:i], *found[i + 1 :]],
        lambda found, i: [*found[: i + 1], found[i], *found[i + 1 :]],
        lambda found, i: [*found[:i], b'{"event": "stage", "previous": ""}', *found[i:]],
        lambda found, i: [*found[:i], b"", *found[i:]],
        lambda found, i: [*found[:i], b"[]", *found[i + 1 :]],
        lambda found, i: [*found[:i], found[i] + found[i + 1], *found[i + 2 :]],
        swapped,
    ],
    ids=["changed", "respaced", "removed", "doubled", "inserted", "blank", "no object", "joined", "swapped"],
)
def test_a_change_anywhere_but_at_the_end_shows(
    log: EventLog, place: int, change: Callable[[list[bytes], int], list[bytes]]
) -> None:
    before = lines(log)
    put(log, change(before, place))
    with pytest.raises(TamperedError, match=r"events\.jsonl: entry \d+ does not follow from entry \d+"):
        log.check()


def test_the_first_entry_that_does_not_fit_is_named(log: EventLog) -> None:
    found = lines(log)
    put(log, [*found[:2], found[2].replace(b"stage", b"Stage"), *found[3:]])
    with pytest.raises(TamperedError, match="entry 4 does not follow from entry 3"):
        log.check()


def test_more_events_do_not_heal_a_broken_chain(log: EventLog) -> None:
    found = lines(log)
    put(log, [found[0], *found[2:]])
    log.append("later")
    with pytest.raises(TamperedError, match="entry 2 does not follow from entry 1"):
        log.check()


def test_an_entry_cut_short_by_a_crash_is_dropped(log: EventLog) -> None:
    """An entry is acknowledged by `events.head`, which is written after it."""
    whole, marked = log.path.read_bytes(), log.mark.read_bytes()
    log.append("cut")
    longer = log.path.read_bytes()
    for kept in range(len(whole), len(longer) + 1, 7):
        log.path.write_bytes(longer[:kept])
        log.mark.write_bytes(marked)
        log.check()
        assert events(log) == list(NAMES)
        assert log.head == hashlib.sha256(lines(log)[-1]).hexdigest()
    log.path.write_bytes(longer)
    log.check()
    assert events(log) == [*NAMES, "cut"]


@pytest.mark.parametrize("kept", range(len(NAMES)))
def test_a_log_that_lacks_its_last_entries_is_not_gone_on_with(log: EventLog, kept: int) -> None:
    put(log, lines(log)[:kept])
    for look in (log.check, log.require_whole):
        with pytest.raises(
            TamperedError, match=rf"has {kept} entries, and is not the log of 5 that events\.head speaks of"
        ):
            look()
    log.mark.unlink()
    log.check()


@pytest.mark.parametrize("mark", [b"", b"[]", b"{}", b'{"entries": 0, "head": "0"}', b'{"entries": "x", "head": "0"}'])
def test_a_mark_that_is_none_is_told(log: EventLog, mark: bytes) -> None:
    log.mark.write_bytes(mark)
    with pytest.raises(TamperedError, match=r"events\.head"):
        log.require_whole()


def test_the_next_entry_heals_a_log_that_was_cut_short(log: EventLog) -> None:
    whole = log.path.read_bytes()
    for missing in (1, 2, len(lines(log)[-1]) // 2, len(whole) - 3):
        log.path.write_bytes(whole[:-missing])
        kept = len(lines(log))
        log.append("after the crash")
        log.check()
        assert events(log) == [*NAMES[:kept], "after the crash"]
        assert log.path.read_bytes().endswith(b"}\n")


def bytes_read() -> int:
    """What this process has read from files so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_an_entry_costs_the_same_in_a_long_log(log: EventLog) -> None:
    """What is read does not grow with the log, which is 6 MB long; the chain stays one, and its count right."""
    filler, content, previous = "x" * 3_000, bytearray(), "0" * 64
    for _ in range(2_000):
        line = json.dumps({"event": "stage", "previous": previous, "text": filler}).encode()
        content += line + b"\n"
        previous = hashlib.sha256(line).hexdigest()
    log.path.write_bytes(content)
    log.mark.unlink()
    log.append("first")  # counts the entries, since no mark does
    before = bytes_read()
    log.append("second")
    assert log.head != previous
    assert log.last("second") is not None
    assert bytes_read() - before < 1_000_000
    log.check()
    assert json.loads(log.mark.read_bytes())["entries"] == 2_002
    assert events(log)[-3:] == ["stage", "first", "second"]


@pytest.mark.parametrize("cut", [b"", b'{"event": "cut', b"x" * 200_000])
@pytest.mark.parametrize("length", [1, 65_535, 65_536, 65_537, 140_000])
def test_events_come_back_from_the_newest_on(tmp_path: Path, length: int, cut: bytes) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for number in range(4):
        log.append("stage", number=number, text="x" * length)
    with log.path.open("ab") as stream:
        stream.write(cut)
    head = hashlib.sha256(lines(log)[-1]).hexdigest()
    assert log.head == head
    assert [event["number"] for event in reversed(log)] == [3, 2, 1, 0]
    log.append("later")
    log.check()
    assert [event.get("number") for event in reversed(log)] == [None, 3, 2, 1, 0]
    assert log.last("stage", number=0) is not None


def test_a_mark_of_a_log_that_was_cut_is_not_counted_from(log: EventLog) -> None:
    put(log, lines(log)[:2])
    log.append("later")
    assert json.loads(log.mark.read_bytes())["entries"] == 3
    log.check()


def test_the_newest_event_that_fits_is_found(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "events.jsonl")
    for stage, record in (("split", "a"), ("train", "b"), ("split", "c"), ("train", "d")):
        log.append("stage", stage=stage, record=record)
    log.append("run-ended", stage="split", record="e")
    assert (found := log.last("stage", stage="split")) is not None
    assert found["record"] == "c"
    assert (found := log.last("stage")) is not None
    assert found["record"] == "d"
    assert (found := log.last("stage", stage="split", record="a")) is not None
    assert found["record"] == "a"
    assert log.last("stage", stage="split", record="b") is None
    assert log.last("stage", absent="split") is None
    assert log.last("promoted") is None


@pytest.mark.parametrize("line", [b"[]", b"1", b'"stage"', b"{}", b'{"event": "stage"}', b"[" * 100_000])
def test_an_entry_that_is_no_event_is_told(log: EventLog, line: bytes) -> None:
    put(log, [*lines(log), line])
    with pytest.raises(TamperedError, match="entry 6 cannot be read"):
        events(log)
    with pytest.raises(TamperedError, match="entry 1 from the end cannot be read"):
        log.last("stage")
    with pytest.raises(TamperedError, match="entry 6 does not follow"):
        log.check()
