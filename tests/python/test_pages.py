"""Pages are made of templates that escape by themselves, whatever is put into them."""

import json
import re
from pathlib import Path

import lmhead.page
from lmhead.measurement import command as measurement
from lmhead.page.document import templates
from lmhead.tables import Cell, Code, make_table
from report_fixtures import HOSTILE, Page

PACKAGE = Path(lmhead.page.__file__).parents[1]


def test_markup_stands_in_templates_and_nowhere_else():
    modules = [path for room in ("page", "report", "measurement") for path in (PACKAGE / room).glob("*.py")]
    assert len(modules) > 10
    for module in modules:
        assert not re.search(r"</?[a-z]+[ >\"]", module.read_text(encoding="utf-8")), module
    assert templates().autoescape is True


def test_attributes_are_quoted_in_every_template():
    found = [path for path in PACKAGE.rglob("*.html")]
    assert len(found) >= 4
    for path in found:
        for tag in re.findall(r"<[a-z][^>]*>", path.read_text(encoding="utf-8")):
            assert not re.search(r"=\{\{", tag), (path, tag)
        assert "|safe" not in path.read_text(encoding="utf-8").replace(" ", ""), path


def test_a_table_escapes_words_code_and_what_stands_beside_them():
    made = make_table(HOSTILE, [Cell(HOSTILE, HOSTILE)], [[(HOSTILE, Code(HOSTILE))]], caption=HOSTILE)
    html = templates().from_string('{% import "page/parts.html" as parts %}{{ parts.table(made) }}').render(made=made)
    assert "<script" not in html and "<img" not in html and "<a " not in html
    assert "\u202e" not in html and html.count("\\u{202e}\\u{d800}") == 6


def test_nothing_of_a_measurement_becomes_markup(tmp_path):
    group = {"group": HOSTILE, "tokens": 5, "energy_share": 0.5, "retained_energy": 0.5, "loss": 1.0}
    model = {"model": HOSTILE, "hidden_size": 4, "vocab_size": 9, "tokens": 10, "family": HOSTILE,
             "token_breakdown": {"by_frequency": [group], "quantiles": {"0.1": 0.1, "0.9": 0.9}},
             "left_out": {"diagnostics": [HOSTILE], "why": HOSTILE}}
    made = {"format": "lmhead-measurement", "text": [HOSTILE], "models": [model, {**model, "model": HOSTILE + "2"}]}
    (tmp_path / "made.json").write_text(json.dumps(made))
    assert measurement.main([str(tmp_path / "made.json"), "--out", str(tmp_path / "made.html")]) == 0
    page = Page(tmp_path / "made.html")
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "img" not in tags and "a" not in tags
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "\\u{202e}\\u{d800}" in page.text
    assert all("<" not in name for arm in page.data["arms"] for name in arm.values())
    assert "<" not in json.dumps([panel.get("ticks") for panel in page.data["panels"]])
