"""The committed documents say what the committed rows say."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lmhead.study import document
from lmhead.study import statistics as study_statistics

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import real_models  # noqa: E402
import results_index  # noqa: E402

RESULTS = [*sorted(path for path in (ROOT / "docs/results").glob("*.md") if path.stem != "README"), ROOT / "docs/leaderboard.md"]
NUMBER = r"[+−-]?\d+\.\d+"
INTERVAL = re.compile(rf"({NUMBER}) \[({NUMBER}), ({NUMBER})\]")
LINK = re.compile(r"\[[^\]]*\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("study", results_index.listed_studies(), ids=lambda path: path.stem)
def test_a_study_is_told_as_its_rows_have_it(study, monkeypatch):
    if not (ROOT / ".venv/bin/lmhead").is_file():
        pytest.skip("lmhead is not installed")
    monkeypatch.chdir(ROOT)
    statistics = study_statistics.compute(study, Path("studies/rows"), [])
    index = (ROOT / "docs/results/README.md").read_text(encoding="utf-8")
    written = results_index.document_of(study)
    assert results_index.line_of(study, statistics if written.is_file() else None) in index.split("\n")
    if not written.is_file():
        return
    text = written.read_text(encoding="utf-8")
    commands = text[text.rindex("```\nlmhead study ") + 4 : text.rindex("\n```")].split("\n")
    plots = re.findall(r"!\[([^\]]*)\]\(([^)]*)\)", text)
    assert document.render(statistics, written.stem, commands, plots) == text


def test_names_and_descriptions_of_a_study_never_become_markup(monkeypatch):
    if not (ROOT / ".venv/bin/lmhead").is_file():
        pytest.skip("lmhead is not installed")
    monkeypatch.chdir(ROOT)
    study = ROOT / "studies/does_retention_predict.json"
    hostile = "<script>alert(1)</script> [x](http://evil.example) `a` **b** | \x1b[31m"

    def spoilt(value, key=""):
        if isinstance(value, dict):
            return {name: spoilt(entry, name) for name, entry in value.items()}
        if isinstance(value, list):
            return [spoilt(entry, key) for entry in value]
        return value + hostile if isinstance(value, str) and key not in ("format", "sign") else value

    statistics = spoilt(study_statistics.compute(study, Path("studies/rows"), []))
    text = document.render(statistics, study.stem, ["lmhead study ```"], [])
    outside = re.sub(r"(?s)(?<![`\\])(`+)(?!`).*?(?<!`)\1(?!`)", "", text)  # code shows what it holds
    assert "evil.example" in outside and "\x1b" not in text
    for opened in (r"<script", r"\]\(http", r"\*\*b", r"(?<!:\\)//"):
        assert not re.search(r"(?<!\\)" + opened, outside), opened


def figures(text: str) -> list[tuple[list[float], list[int]]]:
    """Every difference with its interval, and the decimals of the three numbers."""
    return [
        ([float(part.replace("−", "-")) for part in found], [len(part.split(".")[1]) for part in found])
        for found in INTERVAL.findall(text)
    ]


def test_every_interval_of_the_dispute_stands_in_a_result():
    known = [values for path in RESULTS for values, _ in figures(path.read_text(encoding="utf-8"))]
    known += [[-mean, -high, -low] for mean, low, high in known]  # told from the other side
    for values, decimals in figures((ROOT / "docs/dispute.md").read_text(encoding="utf-8")):
        halves = [0.5 * 10**-places + 1e-9 for places in decimals]
        assert any(
            all(abs(a - b) <= half for a, b, half in zip(values, result, halves, strict=True)) for result in known
        ), values


def test_released_models_are_told_as_they_were_measured():
    measured = json.loads(real_models.RECORD.read_text(encoding="utf-8"))
    assert set(measured) == set(real_models.MODELS)
    assert real_models.render(measured) == real_models.DOCUMENT.read_text(encoding="utf-8")
    for one in measured.values():  # the figures hold together
        assert one["destroyed_ratio"] ** 2 + one["retained_energy"] == pytest.approx(1, abs=1e-9)
        assert one["destroyed_excess"] == pytest.approx(one["destroyed_ratio"] - one["null_destroyed_ratio"], abs=1e-12)
        assert one["retained_energy"] <= one["best_retained_energy"] and one["cross_validated_avoidable_energy"] <= one["avoidable_energy"]


def test_a_new_head_s_writer_is_sent_to_the_file_that_holds_the_entries():
    home = [path for path in (ROOT / "tests/heads").glob("*.h") if "& entries() {" in path.read_text(encoding="utf-8")]
    assert len(home) == 1
    place = home[0].relative_to(ROOT).as_posix()
    assert f"a line in `{place}`" in (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert f"to entries() of {place}" in (ROOT / "tests/heads/contract_test.cc").read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")], ids=lambda path: path.name)
def test_links_lead_somewhere(page):
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), target


WALK = ROOT / "examples/new_head.md"
WALKED = ["lmhead/heads/head_list.h", "lmhead/heads/registry.cc", "lmhead/study/pinned_defaults.cc", "tests/heads/head_bench.h", "docs/heads.md"]


def walk(folder):
    """The walk's files, written as its blocks up to the build write them."""
    for name in WALKED:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text((ROOT / name).read_text(encoding="utf-8"), encoding="utf-8")
    (folder / "tests/heads/references").mkdir(exist_ok=True)
    writing = WALK.read_text(encoding="utf-8").split("## 5.")[0]
    for block in re.findall(r"^```sh\n(.*?)^```$", writing, re.MULTILINE | re.DOTALL):
        subprocess.run(["bash", "-e", "-c", block], cwd=folder, check=True)


def test_the_walk_through_a_new_head_finds_the_places_that_it_names(tmp_path):
    walk(tmp_path)
    added = {name: len((tmp_path / name).read_text().splitlines()) - len((ROOT / name).read_text().splitlines()) for name in WALKED}
    assert added == {**dict.fromkeys(WALKED, 1), "tests/heads/head_bench.h": 2, "docs/heads.md": 4}
    for name in WALKED:
        assert "gained" in (tmp_path / name).read_text(), name
    head = (tmp_path / "lmhead/heads/gained.cc").read_text()
    lines = [line for line in head.splitlines() if line and not line.startswith(("#include", "//", "}  //", "namespace"))]
    assert len(lines) <= 45  # the code itself, its includes and closing lines left out
    assert (tmp_path / "tests/heads/references/gained.h").exists()
    for name in re.findall(r"`(\w+\.cc)`", WALK.read_text(encoding="utf-8").split("## Where")[1]):
        assert (ROOT / "lmhead/heads" / name).exists(), name
