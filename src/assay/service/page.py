"""The page at /: the interactive description of the API, in place of BentoML's, which loads Google Tag Manager."""

from __future__ import annotations

PAGE = """\
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
NOTHING_FROM_ELSEWHERE = "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:"
