"""The documentation's site: what becomes of links and docstrings, and the whole of it, built strictly."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

pytest.importorskip("mkdocs")
griffe = pytest.importorskip("griffe")
ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import site_docstrings  # noqa: E402
import site_pages  # noqa: E402


class Files:
    def get_file_from_path(self, path):
        return (ROOT / "docs" / path).is_file()


@pytest.mark.parametrize(
    "markdown, folder, page, wanted",
    [
        ("[design](docs/design.md)", ROOT, "index.md", "[design](design.md)"),
        ("[results](../docs/results/README.md#a)", ROOT / "examples", "index.md", "[results](results/README.md#a)"),
        ("[start](../README.md)", ROOT / "docs", "design.md", "[start](index.md)"),
        ("[studies/](../../studies)", ROOT / "docs/results", "results/README.md", "`studies`"),
        ("[the code](examples/preference.py)", ROOT, "index.md", "the code (`examples/preference.py`)"),
        ("[out](https://arxiv.org/abs/2603.10145)", ROOT, "index.md", "[out](https://arxiv.org/abs/2603.10145)"),
        ("![a page](docs/report.png)", ROOT, "index.md", "![a page](report.png)"),
    ],
)
def test_links_stay_inside_or_become_code(markdown, folder, page, wanted):
    assert site_pages._inside(markdown, folder, Files(), page) == wanted


def test_roles_of_docstrings_become_code():
    text = "Is :math:`e^z` as in :func:`lmhead.measure`.\n\n    .. math:: a + b\n              + c\n\nMore."
    assert site_docstrings.as_markdown(text) == "Is `e^z` as in `lmhead.measure`.\n\n    ```text\n    a + b\n    + c\n    ```\n\nMore."


@pytest.mark.skipif(not os.environ.get("LMHEAD_SLOW_TESTS"), reason="LMHEAD_SLOW_TESTS is not set")
def test_the_site_builds_without_a_warning_and_can_be_searched(tmp_path):
    pytest.importorskip("mkdocstrings_handlers.python")
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PATH": f"{ROOT / '.venv/bin'}:{os.environ['PATH']}"}
    done = subprocess.run([sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "search/search_index.json").read_text())["docs"]
    assert any("label_smoothing" in one["text"] for one in found) and any(one["location"].startswith("verbs.html") for one in found)
    page = (tmp_path / "python.html").read_text()
    assert "lmhead.vocabulary_parallel_cross_entropy" in page and ":math:" not in page and ":func:" not in page
    assert "<script src=\"http" not in page
