"""What the comparison with TAEHV's own code says where there is none; that code is no part of this repository."""

from pathlib import Path

import pytest

from tools.taehv_equality import load_taehv

from ..forked import run_forked


def test_a_folder_without_taehv_is_refused_with_the_cure(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"has no taehv\.py.* git clone .*taehv"):
        load_taehv(tmp_path)
    program = "import runpy; runpy.run_module('tools.taehv_equality', run_name='__main__', alter_sys=True)"
    result = run_forked(program, tmp_path)
    assert result.returncode == 2 and result.stdout == ""
    assert "error: " in result.stderr.splitlines()[-1]
