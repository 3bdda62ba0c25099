"""What the hub refuses, as exceptions; the whole tree is in this file.

    EdgeError                     has a stable `code` and a `detail` that says what to do next
    ├── InvalidRequest            the input is wrong: the caller fixes it
    ├── Unauthenticated           the credential is missing or invalid
    ├── Forbidden                 the caller, or the page it runs in, lacks permission
    ├── TooSlow                   the request took too long
    ├── NotReady                  no subscriber is connected: `no_connection`
    ├── LimitReached              a configured limit is reached: try again later
    ├── Draining                  the process is shutting down
    ├── StoreUnavailable          the store is unavailable, so nothing is accepted
    ├── KeysUnavailable           the issuer's keys are unavailable, so tokens can't be verified
    └── DispatchFailed            the target did not accept the job

The HTTP status, the title and the documentation of every code stand in one table,
`edge.http.problems.PROBLEMS`; a test holds that table and these classes together.
"""

from __future__ import annotations


class EdgeError(Exception):
    """A refusal with a stable `code`, a `detail` sentence, and `fields` for the problem document.

    `retry_after_seconds` becomes the `Retry-After` header where it is set; `status` stands in for the one the code has.
    """

    code = "internal"
    retry_after_seconds: float | None = None

    def __init__(
        self,
        detail: str,
        *,
        code: str | None = None,
        retry_after_seconds: float | None = None,
        status: int | None = None,
        **fields: object,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.fields = fields
        self.status = status
        if retry_after_seconds is not None:
            self.retry_after_seconds = retry_after_seconds
        if code is not None:
            self.code = code


class InvalidRequest(EdgeError):
    code = "invalid_request"


class Unauthenticated(EdgeError):
    code = "unauthenticated"


class Forbidden(EdgeError):
    code = "forbidden"


class TooSlow(EdgeError):
    code = "request_timeout"


class NotReady(EdgeError):
    code = "no_connection"


class LimitReached(EdgeError):
    code = "limit_reached"


class Draining(EdgeError):
    code = "draining"
    retry_after_seconds = 1


class StoreUnavailable(EdgeError):
    code = "store_unavailable"
    retry_after_seconds = 1


class KeysUnavailable(EdgeError):
    code = "keys_unavailable"


class DispatchFailed(EdgeError):
    code = "dispatch_failed"
