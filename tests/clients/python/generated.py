"""python generated.py URL: use the client that openapi-python-client has made of the hub's document."""

from __future__ import annotations

import json
import sys

from hub import Client
from hub.api.default import publish, ready, trigger
from hub.models import NewEvent, Ready, Receipt, Trigger, Triggered

client = Client(base_url=sys.argv[1])
receipt = publish.sync(project="p", client=client, body=NewEvent(data="from a generated client"))
waited = ready.sync(project="p", client=client, timeout="3s")
started = trigger.sync(project="p", client=client, body=Trigger(name="job", data={"prompt": "hello"}))
refused = publish.sync(project="!", client=client, body=NewEvent(data=0))
assert isinstance(receipt, Receipt), receipt
assert isinstance(waited, Ready), waited
assert isinstance(started, Triggered), started
sys.stdout.write(
    json.dumps(
        {
            "connections": receipt.connections,
            "ready": waited.ready,
            "dispatched": started.dispatched,
            "refused": refused.code,
        }
    )
)
