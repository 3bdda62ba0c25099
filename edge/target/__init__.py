"""Where a triggered job goes. `job` says what goes there and what comes back, `webhook` takes it there."""

from __future__ import annotations

from edge.target.job import JOB_ID, Delivery, Job, Target
from edge.target.webhook import WebhookTarget

__all__ = ["JOB_ID", "Delivery", "Job", "Target", "WebhookTarget"]
