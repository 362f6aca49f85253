"""lmhead report of a study whose arms were searched: the verdicts are those of statistics.json."""

import json

import pytest
from lmhead.formats import difference
from report_fixtures import report_of
from test_study_command import LMHEAD, run, study
from test_train_command import write_dataset

pytestmark = pytest.mark.skipif(not LMHEAD.exists(), reason="the release build is not there")


@pytest.fixture(scope="module")
def searched(tmp_path_factory):
    folder = tmp_path_factory.mktemp("searched")
    write_dataset(folder / "data")
    (folder / "study.json").write_text(json.dumps(study()))
    run(folder)
    return folder / "out"


def test_the_page_has_the_study_s_verdicts_and_what_was_searched(searched):
    statistics = json.loads((searched / "statistics.json").read_text())
    page = report_of(searched)
    found = next(table for table in page.tables if table[0][0] == "difference")
    assert len(found) == 1 + len(statistics["comparisons"])
    for row, entry in zip(found[1:], statistics["comparisons"], strict=True):
        assert row[0] == f"{entry['arm']} − {entry['baseline']}"
        assert row[1] == entry["verdict"]
        assert row[3] == difference(entry["mean_difference"], entry["interval"]) if "interval" in entry else True
    assert f"“rank 2” against “full”: {statistics['comparisons'][0]['verdict']}" in page.text
    search = next(table for table in page.tables if table[0][0] == "arm" and table[0][1] == "key")
    assert {row[0] for row in search[1:]} == {"full", "rank 2"}
    assert all(row[1] == "optimizer.learning_rate" for row in search[1:])
    assert "By the study itself: Any text but this one." in page.text


def test_runs_that_only_searched_stand_for_no_arm(searched):
    page = report_of(searched)
    first = page.tables[0]
    assert [row[0] for row in first[1:]] == ["full", "rank 2", "wild"]
    searches = len(list(searched.glob("runs/*/*/seed-100")))
    assert searches >= 4 and f"({searches} search runs, not shown below)" in page.text
    assert "seed-100" not in page.text


def test_a_study_whose_run_folders_are_gone_says_what_to_do(searched, tmp_path, capsys):
    from lmhead.report import command

    (tmp_path / "study.json").write_bytes((searched / "study.json").read_bytes())
    (tmp_path / "statistics.json").write_bytes((searched / "statistics.json").read_bytes())
    assert command.main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "lmhead study-document" in error and error.count("\n") == 1


@pytest.mark.parametrize("content", ["[]", "{", '{"comparisons": 3, "arms": [1, {"search": [{"key": 1}]}]}', '{"comparisons": [{}]}'])
def test_any_statistics_file_can_be_read(searched, tmp_path, content):
    from lmhead.report import command

    copy = tmp_path / "copy"
    copy.mkdir()
    for path in ("study.json", "runs"):
        (copy / path).symlink_to(searched / path)
    (copy / "statistics.json").write_text(content)
    assert command.main([str(copy)]) == 0
