"""Write where edge is published, and its version, anew into all pages that name them: `python -m docs.make_addresses`.

This file is the one place to change when the host is known.
"""

from __future__ import annotations

import re
from pathlib import Path

from edge import __version__

REPOSITORY = "https://code.example/edge/edge"
IMAGE = "registry.example/edge/edge"
"""No host yet: names under `.example` belong to no one and never resolve (RFC 2606)."""
DOCS = ""
"""Address of the site that `make docs-site` builds, once it is published; the live page then links to it."""

ROOT = Path(__file__).resolve().parent.parent
PAGES = (
    ROOT / "README.md",
    *sorted((ROOT / "docs").glob("*.md")),
    ROOT / "edge" / "static" / "index.html",
)
_NAMED = {
    r"https://[^\s\"'/]+/[^\s\"'/]+/[^\s\"'/]+/releases/download/v[^\s\"'/]+": (
        f"{REPOSITORY}/releases/download/v{__version__}"
    ),
    r"(?<=git clone )https://[^\s`]+": REPOSITORY,
    r"(?<= --repo )[^\s/]+/[^\s/]+": REPOSITORY.partition("://")[2].partition("/")[2],
    r"[\w-]+\.[\w.-]+(?:/[\w.-]+)+:\d+\.\d+\.\w+": f"{IMAGE}:{__version__}",
    r"(?<=\bedge_)\d+\.\d+\.\w+(?=_)": __version__,
    r"(?<=\bedge-hub-)\d+\.\d+\.\w+(?=\.tgz)": __version__,
    r"(?<=\bedge_hub_client-)\d+\.\d+\.\w+(?=-py3)": __version__,
}


def made(page: str, docs: str = DOCS) -> str:
    """`page` with today's addresses and version, and a link to the docs where the live page has its links."""
    for pattern, address in _NAMED.items():
        page = re.sub(pattern, address, page)
    link = f'        <a href="{docs}">Docs</a>\n' if docs else ""
    return re.sub(r'(?: *<a href="[^"]*">Docs</a>\n)?( *<a href="openapi\.json">)', rf"{link}\1", page)


if __name__ == "__main__":
    for page in PAGES:
        page.write_text(made(page.read_text()))
