"""Routes by their templates, for counting and logging: a path contains a user's id, its template does not."""

from __future__ import annotations

from collections.abc import Sequence

from starlette.routing import BaseRoute, Route

UNKNOWN = "unknown"
"""The template of all paths that belong to no route."""

PUBLIC = frozenset({"/", "/healthz", "/readyz", "/metrics", "/openapi.json", "/docs"})
"""The paths that need no token and are answered also under overload."""


class RouteTable:
    """The templates of an app's routes."""

    def __init__(self, routes: Sequence[BaseRoute]) -> None:
        found = [route for route in routes if isinstance(route, Route)]
        self._fixed = {route.path for route in found if "{" not in route.path}
        self._patterns = list({route.path: route.path_regex for route in found if "{" in route.path}.items())

    def template(self, path: str) -> str:
        """The template of a path, such as `/v1/users/{user_id}/tip`; UNKNOWN if no route has it."""
        if path in self._fixed:
            return path
        return next((template for template, regex in self._patterns if regex.match(path)), UNKNOWN)
