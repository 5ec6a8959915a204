"""The page at /, and the interactive description of the interface at /docs; both load nothing from elsewhere."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Mount, Route
from starlette.staticfiles import StaticFiles

_KINDS = {"page.html": "text/html", "page.css": "text/css", "page.js": "text/javascript"}
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
_DOCS_POLICY = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
_DOCS = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>Assay</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="./static_content/swagger-ui.css">
</head>
<body>
<div id="swagger-ui"></div>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script src="./static_content/swagger-ui-standalone-preset.js"></script>
<script src="./static_content/swagger-initializer.js"></script>
</body>
</html>
"""


def page_routes() -> list[BaseRoute]:
    """Return the routes of both pages."""
    package = find_spec("bentoml")
    assert package is not None
    assert package.origin is not None
    swagger = Path(package.origin).parent / "_internal" / "server" / "static_content"
    return [
        *(_route("/" if name == "page.html" else f"/{name}", _content(name), kind) for name, kind in _KINDS.items()),
        _route("/docs", _DOCS.encode(), "text/html", _DOCS_POLICY),
        Mount("/static_content", StaticFiles(directory=swagger)),
    ]


def _content(name: str) -> bytes:
    return (files("assay.service") / "pages" / name).read_bytes()


def _route(path: str, content: bytes, kind: str, policy: str = _POLICY) -> Route:
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }

    async def endpoint(_: Request) -> Response:
        return Response(content, headers=headers, media_type=kind)

    return Route(path, endpoint)
