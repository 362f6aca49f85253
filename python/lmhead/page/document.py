"""A whole page around its parts."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

from lmhead.page.text import text

KEY_STAYS_IN_VIEW = 8  # arms up to which the key may follow the reader without hiding the plots


def document(title: str, body: list[str], data: str) -> str:
    """A whole page around ready HTML; `data` is the JSON that page.js draws (text.script_json)."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), beside("page.js")]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri "
        "'none'; form-action 'none'"
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>\n{beside('page.css')}</style>",
            "</head>",
            "<body>",
            "<main>",
            *body,
            "</main>",
            f'<script type="application/json" id="lmhead-data">{data}</script>',
            *(f"<script>{script}</script>" for script in scripts),
            "</body>",
            "</html>",
            "",
        ]
    )


def beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
