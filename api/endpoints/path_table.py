"""Finds what answers a path, at a cost that does not grow with the number of paths.

A path without parameters is looked up; one with parameters is compared only with those of as many
parts. `/a/{id}/b` has the parameter `id`, which is one part of the path and not empty.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_NOTHING: Final[Mapping[str, str]] = {}


class _Pattern(NamedTuple):
    """A path with parameters, and what answers it."""

    regex: re.Pattern[str]
    application: ASGIApp


class PathTable:
    """An ASGI application that passes each request on by its path.

    Of two patterns that fit, the one that was listed first answers.
    """

    def __init__(self, rows: Iterable[tuple[str, ASGIApp]], not_found: ASGIApp) -> None:
        self._not_found = not_found
        self._by_path: dict[str, ASGIApp] = {}
        self._by_depth: dict[int, list[_Pattern]] = {}
        for path, application in rows:
            if "{" in path:
                pattern = _Pattern(_compiled(path), application)
                self._by_depth.setdefault(path.count("/"), []).append(pattern)
            else:
                self._by_path.setdefault(path, application)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its parameters are put into `path_params`."""
        application, scope["path_params"] = self._find(scope["path"])
        await application(scope, receive, send)

    def _find(self, path: str) -> tuple[ASGIApp, Mapping[str, str]]:
        application = self._by_path.get(path)
        if application is not None:
            return application, _NOTHING
        for regex, by_pattern in self._by_depth.get(path.count("/"), ()):
            found = regex.fullmatch(path)
            if found is not None:
                return by_pattern, found.groupdict()
        return self._not_found, _NOTHING


def _compiled(path: str) -> re.Pattern[str]:
    # Names of parameters stand at the odd places.
    parts = _PARAMETER.split(path)
    return re.compile(
        "".join(
            f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part)
            for index, part in enumerate(parts)
        )
    )
