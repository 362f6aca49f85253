"""lmhead report: nothing in a run's files can run, the page needs no network, and what cannot be done is said."""

import json
import os
import subprocess
from pathlib import Path

import lmhead.page
import pytest
from lmhead.page import files, picture
from lmhead.report import command as report
from report_fixtures import HOSTILE, make_run, make_study, report_of


def test_nothing_from_a_file_becomes_markup(tmp_path):
    make_study(tmp_path / "study", arms=((HOSTILE, 4), ("full", 128)))
    for config in (tmp_path / "study").rglob("config.json"):
        value = json.loads(config.read_text())
        value[HOSTILE] = {"<b>": HOSTILE}
        config.write_text(json.dumps(value))
    (tmp_path / "study/study.json").write_text(json.dumps({"name": HOSTILE, HOSTILE: HOSTILE}))
    page = report_of(tmp_path / "study")
    tags = [tag for tag, _ in page.elements]
    assert tags.count("script") == 3 and "img" not in tags and "a" not in tags and "b" not in tags
    assert not [name for _, attributes in page.elements for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in page.text and "\\u{202e}\\u{d800}" in page.text
    assert "<" not in page.data["arms"][0]["name"] and "<" not in page.data["arms"][0]["label"]


def test_the_page_asks_nothing_of_a_network(tmp_path):
    make_study(tmp_path / "study")
    page = report_of(tmp_path / "study")
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base", "img"), tag
        for name, value in attributes.items():
            assert name not in ("src", "href", "action", "srcset"), (tag, name)
            assert "http:" not in (value or "") and "https:" not in (value or ""), (tag, name)
    policy = next(attributes["content"] for _, attributes in page.elements if "http-equiv" in attributes)
    assert policy.startswith("default-src 'none'; script-src 'sha256-") and "http" not in policy
    drawing = (Path(lmhead.page.__file__).parent / "page.js").read_text()
    assert "displayModeBar: false, showSendToCloud: false" in drawing
    style = (Path(lmhead.page.__file__).parent / "page.css").read_text()
    assert "url(" not in style and "@import" not in style
    assert (tmp_path / "study/report.html").stat().st_size < 8e6


def test_a_browser_draws_every_panel_and_runs_nothing_else(tmp_path):
    browser = picture.find_browser()
    if browser is None:
        pytest.skip("no Chromium")
    make_study(tmp_path / "study", arms=((HOSTILE, 4), ("<b>full</b> %{y}", 128)))
    report_of(tmp_path / "study")
    command = [
        browser,
        *picture.HEADLESS,
        "--dump-dom",
        "--virtual-time-budget=5000",
        f"--user-data-dir={tmp_path}/profile",
        (tmp_path / "study/report.html").as_uri(),
    ]
    try:
        drawn = subprocess.run(command, capture_output=True, timeout=120, text=True, errors="replace").stdout
    except subprocess.TimeoutExpired:
        pytest.skip("Chromium does not answer here")
    if "<html" not in drawn:
        pytest.skip("Chromium does not start here")
    body = drawn[: drawn.index('<script type="application/json"')]
    for name in (entry["id"] for entry in report_of(tmp_path / "study").data["panels"]):
        drawing = body[body.index(f'id="{name}"') :].split("</figure>")[0]
        assert drawing.count('class="js-line"') >= 2, name
    assert (
        "&lt;b&gt;full&lt;/b&gt; %{y}" in body
        and "<b>full" not in body
        and "<img" not in body
        and "<a " not in body
    )
    assert "modebar-btn" not in body


def test_a_picture_without_a_browser_is_refused(tmp_path, monkeypatch, capsys):
    make_run(tmp_path / "run")
    monkeypatch.setattr(picture.shutil, "which", lambda name: None)
    assert report.main([str(tmp_path / "run"), "--picture", str(tmp_path / "picture.png")]) == 2
    assert "a picture needs one of chromium" in capsys.readouterr().err


@pytest.mark.parametrize(
    "make, expected",
    [
        (lambda path: [str(path / "nowhere")], "which is no folder"),
        (lambda path: [str(path)], "must hold a run"),
        (lambda path: [], "RUN-OR-STUDY"),
        (lambda path: [str(path), "--colour"], "RUN-OR-STUDY"),
        (
            lambda path: [
                make_run(path / "run") and str(path / "run"),
                "--out",
                str(path / "no/such/file.html"),
            ],
            "must be writable",
        ),
        (lambda path: [make_run(path / "run") and str(path / "run"), "--out", str(path)], "must name a file"),
        (
            lambda path: [(path / "study.json").write_text("{}") and str(path)],
            "must hold a run that has begun",
        ),
    ],
)
def test_a_wrong_request_is_one_line_and_exit_code_2(tmp_path, capsys, make, expected):
    assert report.main(make(tmp_path)) == 2
    error = capsys.readouterr().err
    assert error.startswith("[report] ") and expected in error and error.count("\n") == 1


def test_a_failed_write_leaves_the_old_report_and_no_litter(tmp_path, monkeypatch):
    make_run(tmp_path / "run")
    (tmp_path / "run/report.html").write_text("old")
    monkeypatch.setattr(
        files.os, "fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device"))
    )
    before = sorted(tmp_path.rglob("*"))
    assert report.main([str(tmp_path / "run")]) == 2
    assert (tmp_path / "run/report.html").read_text() == "old" and sorted(tmp_path.rglob("*")) == before


def test_a_folder_name_that_is_no_text_has_a_page_and_never_colours_a_terminal(tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"st\xffudy\x1b[31m\n")
    make_run(folder)
    page = report_of(folder)
    assert "st\\u{dcff}udy\\u{1b}[31m" in page.text and "\x1b" not in (folder / "report.html").read_text()
    assert "st\\u{dcff}udy\\u{1b}[31m\\n" in capsys.readouterr().out
