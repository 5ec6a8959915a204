"""JSON Schemas of OpenLineage events and facets, derived from the official client's classes.

OpenLineage publishes JSON Schemas (OpenLineage.json 2-0-2 and one file for each facet); its client ships Python
classes that its authors generate from them, each with the address of its definition, and checks no types itself.
`problems` turns the classes back into schemas, closed to unknown fields, and needs no network.
"""

from __future__ import annotations

import json
import types
import typing
from enum import Enum
from importlib import resources
from typing import Any

import attr
from jsonschema import Draft202012Validator, FormatChecker
from openlineage.client import event_v2, facet_v2
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

CHECKER = FormatChecker(formats=("uuid",))
ALWAYS = ("_producer", "_schemaURL", "producer", "schemaURL")
FORMATS = {
    "eventTime": {"format": "date-time"},
    **{name: {"format": "uri"} for name in ALWAYS},
    "runId": {"format": "uuid"},
}
BASE = {
    "type": "object",
    "properties": {"_producer": {"type": "string", "format": "uri"}, "_schemaURL": {"type": "string", "format": "uri"}},
    "required": ["_producer", "_schemaURL"],
}
DIALECT = "https://json-schema.org/draft/2020-12/schema"


@CHECKER.checks("date-time", ValueError)
def _is_time(value: object) -> bool:
    from datetime import datetime

    return datetime.fromisoformat(str(value)).tzinfo is not None


@CHECKER.checks("uri", ValueError)
def _is_uri(value: object) -> bool:
    from urllib.parse import urlsplit

    parts = urlsplit(str(value))
    return bool(parts.scheme and (parts.netloc or parts.path)) and not set(str(value)) & set(' "<>\\^`{|}')


class _Definitions(dict[str, dict[str, Any]]):
    """JSON Schemas of attrs classes by name, gathered as they are referred to; they may refer to themselves."""

    def of(self, kind: Any) -> dict[str, Any]:
        """Schema of an annotation."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if origin in (typing.Union, types.UnionType):
            return {"anyOf": [self.of(argument) for argument in arguments if argument is not type(None)]}
        if kind is Any:
            return {}
        if origin is list:
            return {"type": "array", "items": self.of(arguments[0])}
        if origin is dict:
            if attr.has(arguments[1]) and issubclass(arguments[1], facet_v2.BaseFacet):
                return {"type": "object", "additionalProperties": BASE}
            return {"type": "object", "additionalProperties": self.of(arguments[1])}
        if isinstance(kind, type) and issubclass(kind, Enum):
            return {"enum": [member.value for member in kind]}
        if attr.has(kind):
            return self._of_class(kind)
        return {"type": {str: "string", int: "integer", float: "number", bool: "boolean"}[kind]}

    def _of_class(self, kind: type) -> dict[str, Any]:
        name = f"{kind.__module__}.{kind.__qualname__}"
        if name not in self:
            self[name] = {}
            hints, fields = typing.get_type_hints(kind), attr.fields(kind)
            properties = {field.name: self.of(hints[field.name]) | FORMATS.get(field.name, {}) for field in fields}
            required = [field.name for field in fields if field.default is attr.NOTHING or field.name in ALWAYS]
            self[name] = {
                "type": "object",
                "properties": properties,
                "required": required,
                "additionalProperties": False,
            }
        return {"$ref": f"#/$defs/{name}"}


def _classes() -> dict[str, type]:
    """The client's classes of events and facets, by the address of their definition."""
    modules = [value for value in vars(facet_v2).values() if isinstance(value, types.ModuleType)]
    kinds = [value for module in modules for value in vars(module).values() if isinstance(value, type)]
    return {kind._get_schema(): kind for kind in (event_v2.RunEvent, *kinds) if hasattr(kind, "_get_schema")}


def _published(url: str) -> dict[str, Any]:
    """Schema of the event or facet at an address, by the client's class; one that it does not know is referred to."""
    kind, definitions = _classes().get(url), _Definitions()
    return {"$ref": url} if kind is None else {**definitions.of(kind), "$defs": definitions}


def contamination_schema() -> dict[str, Any]:
    """The schema of our own facet, as the package ships it."""
    text = resources.files("assay.openlineage").joinpath("contamination_facet.json").read_text(encoding="utf-8")
    found: dict[str, Any] = json.loads(text)
    return found


def _registry() -> Registry[Any]:
    core = {"$schema": DIALECT, "$defs": {"DatasetFacet": BASE}}
    ours = contamination_schema()
    return Registry().with_resources(
        [
            ("https://openlineage.io/spec/2-0-2/OpenLineage.json", Resource.from_contents(core)),
            (ours["$id"], Resource.from_contents(ours, default_specification=DRAFT202012)),
        ]
    )


def problems(event: Any) -> list[str]:
    """Say what is wrong with an event and with each of its facets, by the schema that it names."""
    registry, found = _registry(), []
    for piece in _pieces(event):
        url = piece.get("schemaURL") or piece["_schemaURL"]
        validator = Draft202012Validator(_published(url), registry=registry, format_checker=CHECKER)
        found += [f"{url}: {error.json_path}: {error.message}" for error in validator.iter_errors(piece)]
    return found


def _pieces(value: Any) -> list[dict[str, Any]]:
    """Every object in an event that names a schema."""
    if isinstance(value, dict):
        here = [value] if "_schemaURL" in value or "schemaURL" in value else []
        return here + [piece for part in value.values() for piece in _pieces(part)]
    return [piece for part in value for piece in _pieces(part)] if isinstance(value, list) else []
