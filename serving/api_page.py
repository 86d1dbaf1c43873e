"""The page /docs: the routes of the OpenAPI document in HTML that needs nothing from other servers."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any

_CODE = re.compile("`(.*?)`")
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; line-height: 1.5; max-width: 48rem; margin: 2rem auto; padding: 0 1rem; }}
dt {{ margin-top: 1.2rem; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{description} Addresses below <code>/v1</code> need the header <code>Authorization: Bearer TOKEN</code> with one of
<code>SERVICE_TOKENS</code>. The schemas of requests and responses are in
<a href="/openapi.json">/openapi.json</a>, from which clients can be generated.</p>
<dl>
{routes}
</dl>
</body>
</html>
"""


def api_page(document: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    info = document["info"]
    return _PAGE.format(
        title=escape(info["title"]),
        description=escape(info.get("description", "")),
        routes="\n".join(_routes(document["paths"])),
    )


def _routes(paths: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for path, operations in paths.items():
        for method, operation in operations.items():
            description = _CODE.sub(r"<code>\1</code>", escape(operation.get("description", "")))
            answers = "; ".join(f"{status}: {each['description']}" for status, each in operation["responses"].items())
            yield f"<dt><code>{method.upper()} {escape(path)}</code></dt>"
            yield f"<dd>{description}<br>{escape(answers)}</dd>"
