"""The Python client of edge, a self-hosted Server-Sent Events hub: docs/python.md."""

from edge_hub_client._client import AsyncClient, AsyncJob, AsyncSubscription, Client, Job, Subscription
from edge_hub_client._errors import DispatchFailed, EdgeError, InvalidSignature, NoConnection, Unreachable
from edge_hub_client._models import (
    BatchReceipt,
    Event,
    Gap,
    History,
    HistoryEvent,
    NewEvent,
    ProjectStatus,
    Readiness,
    Receipt,
    Ticket,
    TriggerReceipt,
)
from edge_hub_client.webhooks import verify_webhook

__all__ = [
    "AsyncClient",
    "AsyncJob",
    "AsyncSubscription",
    "BatchReceipt",
    "Client",
    "DispatchFailed",
    "EdgeError",
    "Event",
    "Gap",
    "History",
    "HistoryEvent",
    "InvalidSignature",
    "Job",
    "NewEvent",
    "NoConnection",
    "ProjectStatus",
    "Readiness",
    "Receipt",
    "Subscription",
    "Ticket",
    "TriggerReceipt",
    "Unreachable",
    "verify_webhook",
]
