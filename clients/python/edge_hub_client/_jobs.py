"""The events of a job that streams its progress: started, progress, complete or failed (docs/jobs.md)."""

from __future__ import annotations

from typing import Any

from edge_hub_client._calls import Call, Verbs
from edge_hub_client._models import Receipt

INTERNAL = "internal error"
CANCELLED = "cancelled"


class JobState:
    """What both clients' jobs share."""

    def __init__(self, project: str, id: str, *, final: bool) -> None:
        self.project = project
        self.id = id
        self.has_ended = False
        self.final = final
        """Its last event is the project's last one, too."""


def started(job: JobState, /, **data: Any) -> Call[Receipt]:
    """Publish that the job has started; `with` does so."""
    return _event(job, "started", data)


def progress(job: JobState, /, **data: Any) -> Call[Receipt]:
    """Publish how far the job is, in words of your own: `percent=40`, `text="…"`."""
    return _event(job, "progress", data)


def complete(job: JobState, /, **data: Any) -> Call[Receipt]:
    """Publish that the job is done, with its result; `with` does so without one."""
    job.has_ended = True
    return _event(job, "complete", data, final=job.final)


def fail(job: JobState, /, error: str, **data: Any) -> Call[Receipt]:
    """Publish that the job failed. `error` is what a user may read."""
    job.has_ended = True
    return _event(job, "failed", {"error": error, **data}, final=job.final)


def _event(job: JobState, event_type: str, data: dict[str, Any], *, final: bool = False) -> Call[Receipt]:
    return Verbs().publish(job.project, {"job": job.id, **data}, type=event_type, final=final)
