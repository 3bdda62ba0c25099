"""Where a triggered job goes. `job` says what goes there and what comes back, `stream` and `webhook` take it there."""

from __future__ import annotations

from edge.target.job import JOB_ID, Delivery, Job, Target
from edge.target.stream import StreamTarget
from edge.target.webhook import WebhookTarget

__all__ = ["JOB_ID", "Delivery", "Job", "StreamTarget", "Target", "WebhookTarget"]
