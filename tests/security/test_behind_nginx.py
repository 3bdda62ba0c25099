"""The requests of test_raw_http, sent to nginx in front of the hub: what one takes for a request, so does the other."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.tls import Certificate, self_signed
from tests.proxies.proxy import KINDS, proxying
from tests.security.hub import running
from tests.security.test_raw_http import CASES, get
from tests.security.wire import Wire

# nginx refuses by itself: bad requests, too large ones, codings and versions it doesn't know, CONNECT.
REFUSALS = {400, 405, 413, 414, 501, 505}
# nginx takes these and writes them anew, well-formed and under its own Host, for the hub.
MENDED = {
    "chunks that end in LF": 202,
    "trailers too long": 202,
    "LF alone": 200,
    "a header without a colon": 200,
    "a header name with a space": 200,
    "a header without a name": 200,
    "HTTP/1.2": 200,
    "HTTP/1.10": 200,
    "a method override": 200,  # a GET, of a project that others have made by then
    "absolute form for another host": 200,
    "an unknown expectation": 202,
}


@pytest.fixture
def certificate() -> Iterator[Certificate]:
    yield from self_signed()


@pytest.mark.proxies
async def test_no_request_means_one_thing_to_nginx_and_another_to_the_hub(
    tmp_path: Path, certificate: Certificate
) -> None:
    async with running() as hub, proxying(KINDS[0], hub.port, tmp_path, certificate) as proxy:
        for name, case in CASES.items():
            published = hub.context.hub.counters.published
            wire = await Wire.open(*proxy.address)
            wire.send(case.raw)
            heard = await wire.heard(answers=1, patience_seconds=0.5, bodies=not case.raw.startswith("HEAD"))
            await wire.close()
            published = hub.context.hub.counters.published - published
            # One request, one answer: from the hub as it would give it to anybody, or from nginx.
            assert set(heard.statuses) <= REFUSALS | {case.answer[0], MENDED.get(name, 400)}, name
            assert len(heard.statuses) <= 1, name
            assert (1 if heard.statuses == [202] else 0) == published, name
            wire = await Wire.open(*proxy.address)
            wire.send(get("/healthz"))
            assert [200] == (await wire.heard(answers=1)).statuses, name
            await wire.close()
