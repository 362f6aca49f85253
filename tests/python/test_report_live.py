"""lmhead report --live: the page follows a run and stops asking when the run has ended."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

from conftest import wait_for
from lmhead.report import command
from report_fixtures import make_run

ROOT = pathlib.Path(__file__).resolve().parents[2]
REFRESH = '<meta http-equiv="refresh" content="1">'


def start(folder):
    return subprocess.Popen([sys.executable, "-m", "lmhead", "report", str(folder), "--live", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            text=True, env={**os.environ, "PYTHONPATH": str(ROOT / "python")})  # fmt: skip


def test_the_page_follows_a_run_to_its_end(tmp_path):
    run, page = tmp_path / "run", tmp_path / "run/report.html"
    make_run(run, steps=20, state=None)
    process = start(run)
    try:
        wait_for(page.is_file)
        assert REFRESH in page.read_text() and "loads itself again every 1 s" in page.read_text()
        before = page.read_bytes()
        with (run / "log.jsonl").open("a") as log:
            log.write(json.dumps({"step": 21, "tokens": 21504, "loss": 1.25, "wall_seconds": 21.0}) + "\n")
        wait_for(lambda: page.read_bytes() != before)
        (run / "summary.json").write_text(json.dumps({"state": "finished", "steps": 21}))
        out, error = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, error) == (0, "") and out.startswith("[report] wrote")
    assert "http-equiv=\"refresh\"" not in page.read_text()


def test_an_interruption_leaves_a_whole_page(tmp_path):
    make_run(tmp_path / "run", state=None)
    process = start(tmp_path / "run")
    wait_for((tmp_path / "run/report.html").is_file)
    process.send_signal(signal.SIGINT)
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error) == (130, "", "[report] stopped\n")
    assert (tmp_path / "run/report.html").read_text().rstrip().endswith("</html>")


def test_what_has_ended_is_written_once(tmp_path, capsys):
    make_run(tmp_path / "run")
    for file in (tmp_path / "run").iterdir():
        os.utime(file, (time.time() - 60, time.time() - 60))
    assert command.main([str(tmp_path / "run"), "--live"]) == 0
    assert "http-equiv=\"refresh\"" not in (tmp_path / "run/report.html").read_text()
    assert command.main([str(tmp_path / "run"), "--live", "0"]) == 2
    assert "at least one second, got 0" in capsys.readouterr().err
