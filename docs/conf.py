"""The site of the docs, from the same files as on a code host: `make docs-site`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parent.parent

project = "edge"
author = "the edge authors"
version = release = re.findall(r'__version__ = "(.+)"', (ROOT / "edge" / "__init__.py").read_text())[0]
extensions = ["myst_parser"]
exclude_patterns = ["decisions.md"]  # for those who change edge; linked from ARCHITECTURE.md
myst_heading_anchors = 4
# The first line of some pages is a code block in a language that only a shell session has.
suppress_warnings = ["misc.highlighting_failure"]
html_theme = "furo"
html_title = f"edge {version}"
html_favicon = "../edge/static/icon.svg"
html_show_copyright = False

# What a page links to outside docs/ is in the repository, and not on the site.
OUTSIDE = re.compile(r"\[([^]]*)\]\(\.\./[^)]*\)")


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""

    def read(_app: Sphinx, _page: str, source: list[str]) -> None:
        source[0] = OUTSIDE.sub(r"\1", source[0])

    app.connect("source-read", read)
