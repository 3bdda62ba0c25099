"""A supervisor that raises inside one task, once at each place where the task waits."""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Any, TypeVar

from edge.supervisor import Supervisor

Place = tuple[str, ...]
"""Where a coroutine waits: `module:line` of each frame of ours, outermost first."""
Result = TypeVar("Result")


class FaultySupervisor(Supervisor):
    """Raises `LookupError` once, at the first place where the task `name` waits and that isn't in `done`."""

    def __init__(self, name: str, done: set[Place]) -> None:
        super().__init__()
        self._name = name
        self._done = done
        self.raised_at: Place | None = None

    def keep_running(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> Any:
        return super().keep_running(name, (lambda: self._raising(run())) if name == self._name else run)

    def start(self, name: str, work: Coroutine[Any, Any, Result]) -> Any:
        return super().start(name, self._raising(work) if name == self._name else work)

    async def _raising(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await _drive(work, self._wants)

    def _wants(self, work: Coroutine[Any, Any, Any]) -> bool:
        place = _place(work)
        if self.raised_at is not None or place in self._done:
            return False
        self.raised_at = place
        self._done.add(place)
        return True


@types.coroutine
def _drive(
    work: Coroutine[Any, Any, Result], wants: Callable[[Coroutine[Any, Any, Any]], bool]
) -> Generator[Any, Any, Result]:
    """As `await work`, but what it waits for raises where `wants` says so."""
    try:
        waited_for = work.send(None)
        while True:
            raising = wants(work)
            try:
                value = yield waited_for
            except BaseException as error:  # noqa: BLE001 - a cancellation, too, is for `work`
                waited_for = work.throw(error)
            else:
                waited_for = work.throw(LookupError("injected")) if raising else work.send(value)
    except StopIteration as stop:
        result: Result = stop.value
        return result


def _place(work: Any) -> Place:
    lines = []
    while work is not None:
        frame = getattr(work, "cr_frame", None)
        if frame is not None and frame.f_globals["__name__"].startswith("edge."):
            lines.append(f"{frame.f_globals['__name__']}:{frame.f_lineno}")
        work = getattr(work, "cr_await", None)
    return tuple(lines)
