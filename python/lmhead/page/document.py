"""A page: one HTML file that opens offline and asks nothing of any network.

Templates lie beside the code that fills them and escape every value by themselves; what a page shows of a file's control and
direction characters is their spelling. A content security policy names the page's scripts by their hashes and forbids every
request, so that a text that slipped through could neither run nor call out.
"""

from __future__ import annotations

import base64
import functools
import hashlib
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from lmhead.formats import visible
from lmhead.tables import Code

PACKAGE = Path(__file__).resolve().parents[1]
KEY_STAYS_IN_VIEW = 8  # arms up to which the key may follow the reader without hiding the plots
MARKERS = (
    "M-5 0A5 5 0 1 1 5 0A5 5 0 1 1-5 0Z",
    "M-4.5-4.5H4.5V4.5H-4.5Z",
    "M0-6 6 0 0 6-6 0Z",
    "M0-5.5 6 5H-6Z",
    "M-2-6H2V-2H6V2H2V6H-2V2H-6V-2H-2Z",
    "M0-6.5 1.6-2.2 6.2-2 2.6.9 3.8 5.3 0 2.8-3.8 5.3-2.6.9-6.2-2-1.6-2.2Z",
    "M0 5.5-6-5H6Z",
    "M-5.5-3-3-5.5 0-2.5 3-5.5 5.5-3 2.5 0 5.5 3 3 5.5 0 2.5-3 5.5-5.5 3-2.5 0Z",
)


def spelled_out(value: Any) -> Any:
    """What a template writes for `value`, before it is escaped; markup of a template is left alone."""
    return value if isinstance(value, Markup) else visible(value)


@functools.cache
def templates() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(PACKAGE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=spelled_out,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    environment.tests["code"] = lambda part: isinstance(part, Code)
    environment.globals.update(markers=MARKERS, key_stays_in_view=KEY_STAYS_IN_VIEW)
    return environment


def render(template: str, data: dict[str, Any], **content: Any) -> str:
    """The page that `template` makes of `content`, with the plots that page.js draws from `data`."""
    from plotly.offline import get_plotlyjs

    scripts = [get_plotlyjs().replace("\r\n", "\n").replace("\r", "\n"), beside("page.js")]
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    policy = (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; base-uri "
        "'none'; form-action 'none'"
    )
    return (
        templates()
        .get_template(template)
        .render(policy=policy, style=Markup(beside("page.css")), scripts=list(map(Markup, scripts)), data=data, **content)
    )


def beside(name: str) -> str:
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
