"""The description of the service's interface, OpenAPI 3.1, with examples of the columns that the scorer takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from assay.scorer.explaining_words import MOST_EXPLAINED
from assay.scorer.scorer import Scorer
from assay.service.formats import ARROW
from assay.service.limits import MIB, Limits
from assay.service.problems import MEDIA_TYPE
from assay.service.requests import MOST_REASONS
from assay.service.rows import ColumnLayout

NPY = "application/x-npy"
_BANDS = (
    "lower and upper end of the false-positive rate of this one scorer at eps for 95 % of the draws of its calibration "
    'rows, by stratum or category, or "all"; null where no band is known, and without eps'
)
_REFUSALS = {
    "400": "the request does not fit; `detail` says what to send instead",
    "401": "the service needs a token, as `Authorization: Bearer TOKEN`, or knows no such token",
    "403": "a page of another site sent the request, or the token is of a role that may not do this",
    "404": "this server keeps no feedback",
    "406": "Arrow was asked for, and is not installed where this service runs",
    "408": "the body did not arrive in time",
    "413": "the request is larger than the service takes; `detail` names the limit",
    "415": "the body is packed, or in a form, that the service does not read",
    "503": "the service is busy; send the request again after the seconds in Retry-After",
}
Schema = dict[str, Any]


def describe_service(scorer: Scorer, limits: Limits) -> dict[str, Any]:
    """Return the description, as JSON values."""
    layout = ColumnLayout.of(scorer)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": f"Assay: {scorer.name}",
            "version": scorer.version,
            "description": f"Scores rows with {scorer.tag} and flags them by their conformal p-values.",
        },
        "paths": {
            "/score": {"post": _score(layout, limits)},
            "/info": _fixed("info", "The deployed scorer: its columns, eps and guarantee.", "Info"),
            "/feedback": {"post": _feedback()},
            "/version": _fixed("version", "Which scorer answers, and where it comes from.", "Version"),
            "/livez": {"get": _plain("livez", "Whether the server answers.")},
            "/readyz": {"get": _plain("readyz", "Whether a scorer is loaded.")},
            "/metrics": {"get": _plain("metrics", "Counts and seconds, for Prometheus.")},
        },
        # Whether a token is needed depends on where the server listens.
        "security": [{}, {"token": []}],
        "components": {
            "schemas": _schemas(layout, limits),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _score(layout: ColumnLayout, limits: Limits) -> dict[str, Any]:
    share = {"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1}
    return {
        "operationId": "score",
        "summary": "Score rows.",
        "description": f"At most {limits.rows} rows and {limits.body // MIB} MiB, also when unpacked. A body in JSON, "
        "or one that begins as .npy or Arrow IPC (stream or file) does, whatever its content-type; packed by gzip if "
        "content-encoding says so. Requests of more than "
        f"{limits.small_rows} rows are answered one after the other, and smaller ones meanwhile.",
        "parameters": [
            {"name": "eps", "in": "query", "schema": share, "description": "as in the body; for .npy and Arrow"},
            {"name": "fdr", "in": "query", "schema": share, "description": "as in the body; for .npy and Arrow"},
            {
                "name": "explain",
                "in": "query",
                "schema": {"type": "integer", "minimum": 1, "maximum": MOST_REASONS},
                "description": "say for each row what its score comes from, at most so many columns, words or places; "
                f"rows x columns x columns is at most {limits.explained} (a text or an image counts as "
                f"{MOST_EXPLAINED} columns); answered as a large request is",
            },
        ],
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": {"$ref": "#/components/schemas/Request"}, "examples": _examples(layout)},
                NPY: {"schema": {"description": "numbers, shape (n, d), in the order of the columns of /info"}},
                ARROW: {"schema": {"description": "a table with the columns of /info, in any order"}},
            },
        },
        "responses": {
            "200": {
                "description": "scores, p-values and flags, in the order of the rows",
                "content": {
                    "application/json": {"schema": {"$ref": "#/components/schemas/Answer"}},
                    ARROW: {
                        "schema": {"description": "score, p_value, flagged; the rest is JSON in its metadata, `assay`"}
                    },
                },
            },
            **_problems(*(status for status in _REFUSALS if status != "404")),
        },
    }


def _feedback() -> dict[str, Any]:
    answer = {
        **_object({"id": {"type": ["string", "integer"]}, "label": {"enum": [0, 1]}}),
        "additionalProperties": False,
    }
    body = {
        **_object({"who": _text("who labelled the rows"), "answers": {"type": "array", "items": answer}}),
        "additionalProperties": False,
    }
    kept = {"schema": _object({"kept": {"type": "integer"}})}
    return {
        "operationId": "feedback",
        "summary": "Keep labels of rows, 0 normal or 1 anomaly, that were given after their scores had been seen.",
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
        "responses": {
            "200": {"description": "the number of labels that were kept", "content": {"application/json": kept}},
            **_problems("400", "404", "408", "413", "503"),
        },
    }


def _fixed(name: str, summary: str, schema: str) -> dict[str, Any]:
    answer = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    responses = {
        "200": {"description": summary, "content": {"application/json": answer}},
        **_problems("401", "403", "503"),
    }
    return {
        method: {"operationId": f"{name}_by_{method}", "summary": summary, "responses": responses}
        for method in ("get", "post")
    }


def _plain(name: str, summary: str) -> dict[str, Any]:
    answer = {"description": summary, "content": {"text/plain": {"schema": {"type": "string"}}}}
    return {"operationId": name, "summary": summary, "responses": {"200": answer}}


def _problems(*statuses: str) -> dict[str, Any]:
    content = {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": _REFUSALS[status], "content": content} for status in statuses}


def _examples(layout: ColumnLayout) -> dict[str, Any]:
    names = list(layout.all_columns)
    values: list[Any] = ["a" if name in layout.of_text or name == layout.category_column else 0.5 for name in names]
    record = dict(zip(names, values, strict=True))
    bodies = {
        "rows": {"columns": names, "rows": [values, values], "eps": 0.05},
        "columns": {"columns": {name: [value] for name, value in record.items()}},
        "records": {"records": [record], "ids": ["first"]},
        "record": {"record": record},
    }
    return {name: {"summary": f"by {name}", "value": body} for name, body in bodies.items()}


def _schemas(layout: ColumnLayout, limits: Limits) -> dict[str, Schema]:
    every = list(layout.all_columns)
    width: Schema = {"minItems": len(every), "maxItems": len(every)}
    names: Schema = {"type": "array", "items": {"enum": every}, "uniqueItems": True, **width}
    values = {name: _value(layout, name) for name in every}
    record: Schema = {
        "type": "object",
        "properties": values,
        "required": every,
        "additionalProperties": False,
    }
    columns = {name: {"type": "array", "items": value, "maxItems": limits.rows} for name, value in values.items()}
    by_column = {**record, "properties": columns}
    shared: dict[str, Schema] = {
        "ids": {
            "type": ["array", "null"],
            "items": {"type": ["string", "number"]},
            "description": "a name for each row; where ties are randomised, a row with an id is ranked at random among "
            "equal calibration scores, always in the same way for the same id, and one without counts them as higher",
        },
        "eps": _share("target false-positive rate; by default the scorer's own (see /info)"),
        "fdr": _share(
            "in place of eps: flag rows so that on average at most this share of the flagged rows of this request is "
            "normal (Benjamini-Hochberg)"
        ),
    }
    kinds = sorted({kind for value in values.values() for kind in value["type"]})
    row: Schema = {"type": "array", "items": {"type": kinds}, **width}
    rows: Schema = {"type": "array", "items": row, "maxItems": limits.rows}
    forms = (
        {"columns": names, "rows": rows},
        {"columns": by_column},
        {"records": {"type": "array", "items": record, "maxItems": limits.rows}},
        {"record": record},
    )
    return {
        "Request": {
            "oneOf": [
                {
                    "type": "object",
                    "properties": {**form, **shared},
                    "required": list(form),
                    "additionalProperties": False,
                }
                for form in forms
            ]
        },
        "Answer": _object(_ANSWER, optional=("fdr", "fpr_bands", "note")),
        "Info": _object(_INFO),
        "Version": _object({"name": _text("the scorer's dataset"), **_VERSIONS}),
        "Problem": _object(_PROBLEM),
    }


def _value(layout: ColumnLayout, name: str) -> Schema:
    kinds = ["number"]
    if name in layout.of_text or name == layout.category_column:
        kinds += ["string"]
    kinds += ["boolean"] if name in layout.of_text else []
    kinds += ["null"] if name in layout.imputed else []
    return {"type": kinds}


def _share(description: str) -> Schema:
    return {"type": ["number", "null"], "exclusiveMinimum": 0, "exclusiveMaximum": 1, "description": description}


def _text(description: str) -> Schema:
    return {"type": "string", "description": description}


def _texts(description: str, *, or_null: bool = False) -> Schema:
    kind: Schema = {"type": ["array", "null"]} if or_null else {"type": "array"}
    return {**kind, "items": {"type": "string"}, "description": description}


def _object(properties: Mapping[str, Schema], optional: tuple[str, ...] = ()) -> Schema:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [name for name in properties if name not in optional],
    }


_BAND: Schema = {
    "type": ["object", "null"],
    "additionalProperties": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 2},
    "description": _BANDS,
}
_VERSIONS: dict[str, Schema] = {
    "model_version": _text("the scorer: the same version gives the same answers"),
    "statement": _text("where the scorer comes from; see `assay audit show`"),
    "data_version": _text("the data that it was made from"),
    "lineage_root": _text("the records that it was made by"),
}
_NUMBER: Schema = {"type": ["number", "null"]}
_ENDS: Schema = {"type": "array", "items": {"type": "integer"}, "minItems": 2, "maxItems": 2}
_REASON: dict[str, Schema] = {
    "share": {**_NUMBER, "description": "of all that raises the score; of a text by cvdd, of the attention"},
    "contribution": {**_NUMBER, "description": "to the score over that of the nearest normal rows"},
    "word": _text("of a text"),
    "row": {"type": "integer", "description": "of an image, from 0"},
    "column": {"type": ["string", "integer"], "description": "of a table its name, of an image its number, from 0"},
    "rows": {**_ENDS, "description": "first and last of a tile of an image, from 0"},
    "columns": {**_ENDS, "description": "first and last of a tile of an image, from 0"},
}
_REASONS: dict[str, Schema] = {
    "because": {
        "type": "array",
        "items": _object(_REASON, optional=tuple(_REASON)),
        "description": "what raises the score most, the strongest first; with explain only, as all that follows",
    },
    "p_without_first": {**_NUMBER, "description": "the p-value if the first column had a typical value"},
    "unknown_words": {"type": "integer", "description": "of a text; stop words do not count"},
    "counted_words": {"type": "integer"},
    "nearest_context": _texts("the words of the nearest context, by cvdd", or_null=True),
}
_ANSWER: dict[str, Schema] = {
    "results": {
        "type": "array",
        "items": _object(
            {
                "score": {
                    "type": ["number", "null"],
                    "description": "higher = more anomalous; float32; null if it is beyond float32",
                },
                "p_value": {
                    "type": "number",
                    "description": "conformal p-value; without fdr the row is flagged if p_value <= eps",
                },
                "flagged": {"type": "boolean"},
                **_REASONS,
            },
            optional=tuple(_REASONS),
        ),
    },
    "eps": {"type": ["number", "null"], "description": "null if the request gave fdr"},
    "fdr": {"type": "number"},
    "fpr_bands": _BAND,
    **_VERSIONS,
    "note": _text("only if rows were not, or cannot be, flagged: why"),
}
_INFO: dict[str, Schema] = {
    "name": _text("the scorer's dataset"),
    "columns": _texts("every one of them is to be sent"),
    "columns_of_categories": _texts("columns that take text; a new text is a value of its own"),
    "columns_of_dates": _texts("columns that take ISO 8601 dates or times"),
    "columns_of_texts": _texts("columns that take whole documents"),
    "columns_that_may_be_missing": _texts("columns that take null"),
    "eps": {"type": "number"},
    "smallest_eps": {"type": "number", "description": "below it nothing can be flagged"},
    "detector": {"type": "string"},
    "adapter": {"type": "string"},
    "n_calibration": {"type": "integer", "description": "number of calibration rows"},
    "guarantee": _text("the guarantee of p-values and its assumption"),
    "unit": {
        "type": ["string", "null"],
        "description": "what roles were assigned by: row, group, block of a series, time, or group and time",
    },
    "fpr_bands": _BAND,
    "category_column": {
        "type": ["string", "null"],
        "description": "an additional column to send, if rows are compared within categories",
    },
    "categories": _texts("the calibrated categories, sorted; at most the first 100", or_null=True),
    "n_categories": {
        "type": ["integer", "null"],
        "description": "number of calibrated categories; rows of any other are refused",
    },
    **_VERSIONS,
    "monitors": {
        "type": ["array", "null"],
        "items": {"type": "object"},
        "description": "what each monitor of this version says; null where none watches",
    },
    "following": {
        "type": ["object", "null"],
        "description": "the record of the champion that is followed, and why a new one could not be loaded; null where "
        "the scorer stays",
    },
    "challenger": {"type": ["object", "null"], "description": "the scorer in the shadow, which answers nothing"},
}
_PROBLEM: dict[str, Schema] = {
    "type": {"type": "string", "const": "about:blank"},
    "title": _text("the name of the status"),
    "status": {"type": "integer"},
    "detail": _text("one sentence: what is wrong, what is allowed, and what to do"),
    "error": _text("the same sentence, for clients of earlier versions"),
}
