"""The service over HTTP: every form of body, limits, large requests apart from small ones, errors as problems."""

from __future__ import annotations

import gzip
import io
import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import replace
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import httpx
import numpy as np
import pyarrow as pa
import pytest
from jsonschema import Draft202012Validator
from numpy.typing import NDArray
from tests.unit.service.conftest import Serve
from tests.waiting import HANG_SECONDS

from assay.scorer.scorer import Scorer
from assay.service.formats import ARROW
from assay.service.limits import MIB, SERVICE_LIMITS, Limits
from assay.service.requests import BODY

TINY = Limits(
    body=100_000, held=150_000, rows=200, small_body=20_000, small_rows=10, waiting=2, body_seconds=1, head_seconds=1
)


class Gate:
    """A detector that scores small batches at once, and large ones when the gate opens, at the latest at its exit."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.opened = threading.Event()
        self.entered = threading.Semaphore(0)

    def __enter__(self) -> None:
        return

    def __exit__(self, *_: object) -> None:
        self.opened.set()

    def decision_function(self, X: NDArray[Any]) -> NDArray[Any]:
        if len(X) > TINY.small_rows:
            self.entered.release()
            assert self.opened.wait(HANG_SECONDS)
        scores: NDArray[Any] = self.inner.decision_function(X)
        return scores


class Failing:
    """A detector with a mistake, whose message holds values of the row."""

    def decision_function(self, X: NDArray[Any]) -> NDArray[Any]:
        raise ValueError(f"secret {X[0, 0]}")


def with_detector(scorer: Scorer, detector: Any) -> Scorer:
    return replace(scorer, function=replace(scorer.function, detector=detector))


@pytest.fixture(scope="module")
def client(scorer: Scorer, serving: Serve) -> Iterator[httpx.Client]:
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        yield client


@pytest.fixture(scope="module")
def rows(scorer: Scorer) -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(150, len(scorer.columns)))


def content(scorer: Scorer, rows: NDArray[Any]) -> dict[str, Any]:
    return {"columns": list(scorer.columns), "rows": rows.tolist()}


def npy(rows: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, rows)
    return stream.getvalue()


def arrow(table: pa.Table, **options: Any) -> bytes:
    stream = pa.BufferOutputStream()
    with pa.ipc.new_stream(stream, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(stream.getvalue())


def assert_refused(response: httpx.Response, status: int, words: str) -> None:
    assert response.headers["content-type"] == "application/problem+json"
    details = response.json()
    assert (response.status_code, details["status"], details["type"]) == (status, status, "about:blank")
    assert words in details["detail"]


@pytest.mark.parametrize(
    "form", ["rows", "columns", "records", "npy", "npy by columns", "arrow", "arrow file", "gzip", "Gzip"]
)
def test_every_form_of_body_has_the_same_answer(
    client: httpx.Client, scorer: Scorer, rows: NDArray[Any], form: str
) -> None:
    by_name = dict(zip(scorer.columns, rows.T.tolist(), strict=True))
    table = pa.table(dict(reversed(by_name.items())))
    file = pa.BufferOutputStream()
    with pa.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    bodies = {
        "rows": json.dumps(content(scorer, rows)).encode(),
        "columns": json.dumps({"columns": by_name}).encode(),
        "records": json.dumps({"records": table.to_pylist()}).encode(),
        "npy": npy(rows),
        "npy by columns": npy(np.asfortranarray(rows)),
        "arrow": arrow(table),
        "arrow file": bytes(file.getvalue()),
        "gzip": gzip.compress(npy(rows)),
        "Gzip": gzip.compress(npy(rows)),
    }
    headers = {"content-encoding": form} if form.lower() == "gzip" else {}
    response = client.post("/score?eps=0.25", content=bodies[form], headers=headers)
    assert response.status_code == 200, response.text
    answer = response.json()
    judged = scorer.judge(rows)
    assert [row["score"] for row in answer["results"]] == judged.scores.tolist()
    assert [row["p_value"] for row in answer["results"]] == judged.p_values.tolist()
    assert [row["flagged"] for row in answer["results"]] == (judged.p_values <= 0.25).tolist()
    assert answer["eps"] == 0.25


def test_an_answer_in_arrow_says_the_same(client: httpx.Client, scorer: Scorer, rows: NDArray[Any]) -> None:
    in_json, in_arrow = (
        client.post("/score", json=content(scorer, rows), headers={"accept": accepted})
        for accepted in ("application/json", f"{ARROW.upper()}, */*;q=0.1")
    )
    assert in_arrow.headers["content-type"] == ARROW
    table = pa.ipc.open_stream(in_arrow.content).read_all()
    rest = json.loads(table.schema.metadata[b"assay"])
    assert {"results": table.to_pylist(), **rest} == in_json.json()
    assert [str(field.type) for field in table.schema] == ["float", "double", "bool"]


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (npy(np.zeros((2, 3))), "a .npy file of shape (2, 3); send (n, 30)"),
        (npy(np.zeros(30)), "a .npy file of shape (30,)"),
        (npy(np.array([["a"] * 30])), "a .npy file of <U1; send numbers"),
        (npy(np.zeros((1, 30), dtype=complex)), "a .npy file of complex128"),
        (npy(np.zeros((4, 30)))[:-1], "959 bytes of numbers; send it whole"),
        (npy(np.zeros((4, 30)))[:20], "whose head cannot be read"),
        (npy(np.full((1, 30), np.nan)), "row 0, column 'mean radius' is nan"),
        (arrow(pa.table({"a": [1.0]})), "unknown column 'a'"),
        (arrow(pa.table({"a": [[1.0]]})), "column 'a' is of type list"),
        (arrow(pa.table({"a": [1.0] * 1000}), compression="zstd"), "the buffers of the Arrow body are packed"),
        (arrow(pa.table({"a": pa.array(["x"] * 999).dictionary_encode()}), compression="lz4"), "are packed"),
        (arrow(pa.table({"a": [1.0]}))[:150], "no Arrow IPC stream that can be read"),
    ],
)
def test_other_arrays_and_tables_are_refused(client: httpx.Client, body: bytes, words: str) -> None:
    assert_refused(client.post("/score", content=body), 400, words)


def test_a_file_of_objects_is_not_unpickled(client: httpx.Client) -> None:
    head = npy(np.zeros((1, 30))).replace(b"'<f8'", b"'|O' ")
    assert_refused(client.post("/score", content=head), 400, "a .npy file of object; send numbers")


@pytest.mark.parametrize(
    ("body", "coding", "status", "words"),
    [
        (gzip.compress(bytes(SERVICE_LIMITS.body + 1)), "gzip", 413, "the unpacked body has more than 67108864 bytes"),
        (gzip.compress(b"{}")[:-3], "gzip", 400, "the gzip stream of the body is cut off"),
        (gzip.compress(b"{}") + b"x", "gzip", 400, "the gzip stream of the body goes on after its end"),
        (b"{}", "gzip", 400, "the body is not gzip"),
        (b"{}", "br", 415, "content-encoding is 'br'"),
    ],
    ids=["bomb", "cut off", "more", "plain", "other"],
)
def test_packed_bodies_are_unpacked_within_limits(
    client: httpx.Client, body: bytes, coding: str, status: int, words: str
) -> None:
    assert_refused(client.post("/score", content=body, headers={"content-encoding": coding}), status, words)


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/nothing", 404, "there is no /nothing"),
        ("GET", "/score", 405, "/score takes no GET"),
        ("POST", "/score?epsilon=1", 400, "unknown parameter 'epsilon' of the address"),
        ("POST", "/score?eps=0.1&eps=0.2", 400, "a parameter of the address is given twice"),
    ],
)
def test_wrong_addresses_are_problems(
    client: httpx.Client, scorer: Scorer, rows: NDArray[Any], method: str, path: str, status: int, words: str
) -> None:
    body = json.dumps(content(scorer, rows[:1])).encode() if method == "POST" else None
    assert_refused(client.request(method, path, content=body), status, words)


def test_who_sends_much_to_a_dataset_that_there_is_not_reads_so(client: httpx.Client) -> None:
    with pytest.raises(HTTPError, match="404"):
        urlopen(f"{str(client.base_url).rstrip('/')}/v1/nothing/score", bytes(20 * MIB))


def test_a_long_value_is_not_echoed_whole(client: httpx.Client) -> None:
    response = client.post("/score", json={"columns": ["x" * 50_000], "rows": []})
    assert_refused(response, 400, "unknown column 'xxx")
    assert "this scorer takes 30 columns" in response.json()["detail"]
    assert len(response.content) < 3000


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_info_and_version_take_both_methods(client: httpx.Client, scorer: Scorer, method: str) -> None:
    info, version = (client.request(method, path).json() for path in ("/info", "/version"))
    assert info["columns"] == list(scorer.columns)
    assert version == {key: info[key] for key in ("name", "model_version", "statement", "data_version", "lineage_root")}


def test_the_description_is_valid_and_holds_for_what_is_answered(
    client: httpx.Client, scorer: Scorer, rows: NDArray[Any]
) -> None:
    from fastapi.openapi.models import OpenAPI

    document = client.get("/openapi.json").json()
    assert document == client.get("/docs.json").json()
    assert document["openapi"].startswith("3.1")
    assert OpenAPI.model_validate(document).paths is not None
    operations = [operation for path in document["paths"].values() for operation in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)

    def check(name: str, value: Any) -> None:
        schema = {"$ref": f"#/components/schemas/{name}", "components": document["components"]}
        Draft202012Validator(schema).validate(value)

    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    examples = document["paths"]["/score"]["post"]["requestBody"]["content"]["application/json"]["examples"]
    assert set(examples) == {"rows", "columns", "records", "record"}
    for example in examples.values():
        check("Request", example["value"])
        response = client.post("/score", json=example["value"])
        assert response.status_code == 200
        check("Answer", response.json())
    check("Answer", client.post("/score", json=content(scorer, rows[:3]) | {"fdr": 0.01}).json())
    check("Info", client.get("/info").json())
    check("Version", client.get("/version").json())
    check("Problem", client.get("/nothing").json())


def test_rows_and_bytes_have_limits(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, TINY) as (client, _):
        width = len(scorer.columns)
        assert_refused(client.post("/score", content=npy(np.zeros((201, width)))), 413, "more than 200 rows")
        assert_refused(client.post("/score", content=bytes(TINY.body + 1)), 413, "the body has more than")
        parts = iter([bytes(60_000)] * 3)
        assert_refused(client.post("/score", content=parts), 413, "the body has more than")
        assert client.post("/score", content=npy(np.zeros((200, width)))).status_code == 200


def test_small_requests_do_not_wait_for_large_ones(scorer: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    """Of three large ones, in whatever order they come in, one is scored, one waits and one is refused."""
    gate = Gate(scorer.function.detector)
    with (
        serving(with_detector(scorer, gate), TINY) as (client, _),
        ThreadPoolExecutor(4) as pool,
        gate,
    ):
        large, row = npy(rows[:100]), json.dumps(content(scorer, rows[:1]))
        jobs = [pool.submit(client.post, "/score", content=large) for _ in range(3)]
        assert gate.entered.acquire(timeout=HANG_SECONDS)
        (overflow,), waiting = wait(jobs, timeout=HANG_SECONDS, return_when=FIRST_COMPLETED)
        assert_refused(overflow.result(), 503, "2 large requests wait already")
        assert int(overflow.result().headers["retry-after"]) > 0
        assert client.get("/livez").status_code == 200
        assert client.post("/score", content=row).status_code == 200
        gate.opened.set()
        for job in waiting:
            results = job.result().json()["results"]
            assert [row["score"] for row in results] == scorer.decision_function(rows[:100]).tolist()


def test_what_all_bodies_hold_has_a_limit(scorer: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    gate = Gate(scorer.function.detector)
    with (
        serving(with_detector(scorer, gate), replace(TINY, held=50_000)) as (client, _),
        ThreadPoolExecutor(1) as pool,
        gate,
    ):
        job = pool.submit(client.post, "/score", content=npy(rows))
        assert gate.entered.acquire(timeout=HANG_SECONDS)
        response = client.post("/score", content=npy(rows))
        assert_refused(response, 503, "holds 0 MiB of other requests")
        assert response.headers["connection"] == "close"
        gate.opened.set()
        assert job.result().status_code == 200
        assert client.post("/score", content=npy(rows)).status_code == 200


def test_more_connections_than_allowed_are_refused_by_a_problem(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, replace(SERVICE_LIMITS, connections=2)) as (client, _):
        assert client.get("/livez").status_code == 200
        with httpx.Client(base_url=client.base_url, timeout=HANG_SECONDS) as other:
            response = other.get("/livez")
    assert_refused(response, 503, "2 connections are open, which is too many; ask again in 5 s")
    assert (response.headers["retry-after"], response.headers["connection"]) == ("5", "close")


def test_a_large_request_does_not_wait_for_ever(scorer: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    gate = Gate(scorer.function.detector)
    limits = replace(TINY, queue_seconds=0.2)
    with serving(with_detector(scorer, gate), limits) as (client, _), ThreadPoolExecutor(1) as pool, gate:
        job = pool.submit(client.post, "/score", content=npy(rows))
        assert gate.entered.acquire(timeout=HANG_SECONDS)
        assert_refused(client.post("/score", content=npy(rows)), 503, "this request waited for 0.2 s behind large ones")
        gate.opened.set()
        assert job.result().status_code == 200


def test_a_server_that_is_stopped_answers_what_it_has(scorer: Scorer, rows: NDArray[Any], serving: Serve) -> None:
    gate = Gate(scorer.function.detector)
    with serving(with_detector(scorer, gate), TINY) as (client, server), ThreadPoolExecutor(1) as pool, gate:
        job = pool.submit(client.post, "/score", content=npy(rows))
        assert gate.entered.acquire(timeout=HANG_SECONDS)
        server.should_exit = True
        while server.servers[0].is_serving():
            time.sleep(0.01)
        gate.opened.set()
        assert job.result().status_code == 200


def test_a_mistake_of_the_service_is_logged_without_values(
    scorer: Scorer, rows: NDArray[Any], serving: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), serving(with_detector(scorer, Failing()), TINY) as (client, _):
        for body in (npy(rows[:1]), npy(rows)):
            assert_refused(client.post("/score", content=body), 500, "Assay failed at this request")
        assert client.get("/livez").status_code == 200
    own = [record for record in caplog.records if record.name.startswith("assay")]
    assert len(own) == 2
    assert "ValueError in /score, at " in caplog.text
    assert "secret" not in caplog.text


def raw(client: httpx.Client, *parts: bytes) -> list[bytes]:
    """Send parts of a request that is never finished, and return what comes after each, and until the server ends."""
    answers = []
    address = (client.base_url.host, client.base_url.port or 0)
    with socket.create_connection(address, timeout=HANG_SECONDS) as connection:
        for part in parts:
            connection.sendall(part)
            answers.append(connection.recv(65536))
        while answers and answers[-1]:
            answers.append(connection.recv(65536))
        return answers or [connection.recv(65536)]


def test_slow_senders_are_dropped(scorer: Scorer, serving: Serve) -> None:
    with serving(scorer, TINY) as (client, _):
        assert raw(client) == [b""]
        assert raw(client, b"POST /score HT") == [b""]
        assert raw(client, b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n", b"GET /li")[0].startswith(b"HTTP/1.1 200")
        slow = b"".join(raw(client, b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n{"))
        assert slow.startswith(b"HTTP/1.1 408")
        assert b"the body did not arrive within 1 s" in slow
        assert b"connection: close" in slow


@pytest.mark.parametrize("place", ["head", "one header", "trailers", "a second head"])
def test_no_head_and_no_trailers_grow_for_ever(scorer: Scorer, serving: Serve, place: str) -> None:
    start = {
        "head": b"GET /livez HTTP/1.1\r\nhost: x\r\n",
        "one header": b"GET /livez HTTP/1.1\r\nhost: ",
        "trailers": b"POST /score HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
        "a second head": b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\nGET /livez HTTP/1.1\r\n",
    }[place]
    line = b"x" * 999 if place == "one header" else b"x: " + b"y" * 995 + b"\r\n"
    with serving(scorer, SERVICE_LIMITS) as (client, _):
        url = client.base_url
        with socket.create_connection((url.host, url.port), timeout=HANG_SECONDS) as connection:
            connection.sendall(start)
            sent = 0
            with pytest.raises(ConnectionError):  # noqa: PT012  (which of the lines is refused depends on buffers)
                while sent < 10_000:
                    connection.sendall(line)
                    sent += 1
    assert sent < 10_000


@pytest.mark.parametrize("more", [b"", b", close"])
def test_a_request_that_offers_another_protocol_is_answered(
    client: httpx.Client, scorer: Scorer, rows: NDArray[Any], more: bytes
) -> None:
    body = json.dumps(content(scorer, rows[:1])).encode()
    head = b"POST /score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n" % len(body)
    offer = b"connection: Upgrade, HTTP2-Settings" + more + b"\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQ\r\n\r\n"
    again = head + b"connection: close\r\n\r\n" + body
    answers = raw(client, head + offer + body + again) if more else raw(client, head + offer + body, again)
    assert b"".join(answers).count(b"HTTP/1.1 200") == (1 if more else 2)
    assert b"HTTP/1.1 400" not in b"".join(answers)


def test_many_offers_at_once_are_answered(client: httpx.Client) -> None:
    offer = b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: Upgrade\r\nupgrade: h2c\r\n\r\n"
    answers = raw(client, 1500 * offer + b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
    assert b"".join(answers).count(b"HTTP/1.1 200") == 1501


@pytest.mark.parametrize("trailer", [b"content-encoding: gzip", b"sec-fetch-site: cross-site"])
def test_trailers_change_no_request(client: httpx.Client, scorer: Scorer, rows: NDArray[Any], trailer: bytes) -> None:
    body = json.dumps(content(scorer, rows[:1])).encode()
    head = b"POST /score HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    answers = raw(client, head + b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(body), body, trailer))
    assert answers[0].startswith(b"HTTP/1.1 200")


def test_what_is_no_http_is_a_problem(client: httpx.Client) -> None:
    answer = b"".join(raw(client, b"nonsense\r\n\r\n"))
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"application/problem+json" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["status"] == 400


def nasty_values(rng: np.random.Generator) -> str:
    texts = [
        *("1", "-0", "1e400", "NaN", "-Infinity", "9" * 400, "1e-400", "true", "null", '""', '"\\ud800"', '"\\u0000"'),
        *(
            "[]",
            "{}",
            "[[[]]]",
            '{"a": 1, "a": 2}',
            "[" * 50 + "]" * 50,
            '"' + "x" * 20_000 + '"',
            "",
            ",",
            "\x00",
            "٣",
        ),
    ]
    return texts[rng.integers(len(texts))]


def hostile_body(rng: np.random.Generator, good: list[bytes]) -> bytes:
    """Return a body that is damaged, of odd values, or only noise."""
    kind = rng.integers(4)
    if kind == 0:
        body = bytearray(good[rng.integers(len(good))])
        for _ in range(rng.integers(1, 8)):
            body[rng.integers(min(len(body), rng.choice([100, len(body)])))] = rng.integers(256)
        return bytes(body)
    if kind == 1:
        body = bytearray(good[rng.integers(len(good))])
        start, end = sorted(rng.integers(0, len(body), 2).tolist())
        return bytes(body[:start] + body[end:] if rng.random() < 0.7 else body[start:end] * 3)
    if kind == 2:
        keys = ["columns", "rows", "records", "record", "ids", "eps", "fdr", "x", "\\ud800"]
        members = [f'"{rng.choice(keys)}": {nasty_values(rng)}' for _ in range(rng.integers(0, 5))]
        return ("{" + ", ".join(members) + "}").encode()
    cells = ", ".join(nasty_values(rng) if rng.random() < 0.1 else "1" for _ in range(30))
    return good[0].replace(b"[[", f"[[{cells}], [".encode(), 1)


def test_hostile_bodies_are_answered(client: httpx.Client, scorer: Scorer, rows: NDArray[Any]) -> None:
    rng = np.random.default_rng(0)
    table = pa.table(dict(zip(scorer.columns, rows[:3].T.tolist(), strict=True)))
    texts = pa.table({name: pa.array(["x", "y", None]).dictionary_encode() for name in scorer.columns})
    good = [
        json.dumps(content(scorer, rows[:3]) | {"ids": ["a", "b", "c"]}).encode(),
        json.dumps({"records": table.to_pylist()}).encode(),
        npy(rows[:3]),
        arrow(table),
        arrow(texts),
    ]
    statuses = []
    for number in range(500):
        body = hostile_body(rng, good)
        headers = {"accept": ARROW} if number % 10 == 0 else {}
        if number % 20 == 5:
            body, headers = gzip.compress(body)[: int(rng.integers(5, 3000))], {"content-encoding": "gzip"}
        response = client.post("/score", content=body, headers=headers)
        statuses.append(response.status_code)
        if response.status_code != 200:
            assert_refused(response, response.status_code, "")
    assert set(statuses) <= {200, 400, 413}, [status for status in statuses if status >= 500]
    assert {200, 400} <= set(statuses)
    assert client.post("/score", content=good[0]).status_code == 200
    assert BODY in client.post("/score", content=b"[]").json()["detail"]
