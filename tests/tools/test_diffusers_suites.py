"""What the runner of diffusers' own tests says; the tests themselves are no part of this repository."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.diffusers_suites import ROOT, SUITES, check_checkout, summarize

REPORT = """<testsuites><testsuite>
<testcase classname="tools.suites.scheduler.A" name="test_one"/>
<testcase classname="tools.suites.scheduler.A" name="test_two"><skipped message="does not apply: why"/></testcase>
<testcase classname="tools.suites.lora.B" name="test_one"><failure message="it broke&#10;here"/></testcase>
</testsuite></testsuites>"""


def test_a_folder_without_the_tests_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"has no tests/schedulers/test_schedulers\.py.* git clone .*diffusers"
    ):
        check_checkout(tmp_path)
    command = [sys.executable, "-m", "tools.diffusers_suites", str(tmp_path / "missing")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1


def test_every_suite_is_a_file() -> None:
    assert [name for name in SUITES if not (ROOT / "tools" / "suites" / f"{name}.py").is_file()] == []


def test_the_summary_counts_and_gives_reasons(tmp_path: Path) -> None:
    (tmp_path / "report.xml").write_text(REPORT)
    assert list(summarize(tmp_path / "report.xml")) == [
        "skipped: A.test_two: does not apply: why",
        "failure: B.test_one: it broke",
        "A: 1 passed, 1 skipped",
        "B: 1 failure",
    ]
