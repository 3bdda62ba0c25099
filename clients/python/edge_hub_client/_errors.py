"""What goes wrong, as exceptions. Test for `code`: it is stable, and docs/errors.md lists every one of the hub's.

EdgeError
├── NoConnection      409 no_connection: no subscriber was ready; nothing was stored or started
├── DispatchFailed    502 dispatch_failed: the target of a trigger did not take the job
├── Unreachable       the hub gave no answer: refused, cut off, timed out (code "network")
└── InvalidSignature  a webhook that the hub has not signed, or not in the last minutes
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class EdgeError(Exception):
    """A request that failed. `detail` says what to do next; `problem` holds every field of the answer."""

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        problem: Mapping[str, Any] | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail
        self.status = status
        self.problem: Mapping[str, Any] = problem or {}
        self.retry_after = retry_after
        """Seconds after which the hub asks to try again, where it says so."""

    def __str__(self) -> str:
        return f"{self.code}: {self.detail}"

    @property
    def may_have_started(self) -> bool:
        """Of a trigger: whether the job may be running although the request failed."""
        return bool(self.problem.get("may_have_started", False))


class NoConnection(EdgeError):
    """No subscriber was ready in time. Nothing was stored or started."""


class DispatchFailed(EdgeError):
    """The target of a trigger did not take the job; `may_have_started` says whether it may run all the same."""


class Unreachable(EdgeError):
    """The hub gave no answer."""

    def __init__(self, cause: object) -> None:
        super().__init__("network", f"The hub gave no answer: {cause or type(cause).__name__}")


class InvalidSignature(EdgeError):
    """Not a webhook of the hub's."""

    def __init__(self, detail: str) -> None:
        super().__init__("invalid_signature", detail)


_CLASSES = {"no_connection": NoConnection, "dispatch_failed": DispatchFailed}


def refusal(status: int, headers: Mapping[str, str], body: bytes) -> EdgeError:
    """The error that an answer with this status stands for."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {}  # the page of a proxy
    code = str(problem.get("code", f"http_{status}"))
    detail = str(problem.get("detail", f"The hub answered with status {status}."))
    after = headers.get("Retry-After", "")
    retry_after = float(after) if after.isascii() and after.isdigit() else None
    return _CLASSES.get(code, EdgeError)(code, detail, status=status, problem=problem, retry_after=retry_after)
