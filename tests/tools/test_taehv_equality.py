"""What the comparison with TAEHV's own code says where there is none; that code is no part of this repository."""

import subprocess
import sys
from pathlib import Path

import pytest

from tools.diffusers_suites import ROOT
from tools.taehv_equality import load_taehv


def test_a_folder_without_taehv_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no taehv\.py.* git clone .*taehv"):
        load_taehv(tmp_path)
    command = [sys.executable, "-m", "tools.taehv_equality", str(tmp_path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 2 and result.stdout == ""
    assert "error: " in result.stderr.splitlines()[-1]
