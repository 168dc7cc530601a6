"""Run diffusers' own tests on our classes.

    git clone --depth 1 --branch v0.40.0 https://github.com/huggingface/diffusers ~/diffusers
    python -m tools.diffusers_suites ~/diffusers

The tests come from the checkout, the diffusers that they run is the installed one. The suites are
`SchedulerCommonTest` on our scheduler, and the tests of Wan's LoRA files with an exported student on a stock pipeline
with our scheduler; `tools/suites/` says what of them does not apply, and why.
"""

import argparse
import importlib.util
import os
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parents[1]
SUITES = ("scheduler", "lora")
_NEEDED = (
    "tests/schedulers/test_schedulers.py",
    "tests/lora/test_lora_layers_wan.py",
)


def check_checkout(path: Path) -> str:
    """The version of diffusers whose tests lie at `path`.

    Raises:
        ValueError: if there are none that these suites are written for.
    """
    missing = [name for name in _NEEDED if not (path / name).is_file()]
    if missing:
        raise ValueError(
            f"{path}: has no {missing[0]}, expected a checkout of diffusers 0.40. Make one: git clone --depth 1 "
            f"--branch v0.40.0 https://github.com/huggingface/diffusers {path}"
        )
    if importlib.util.find_spec("parameterized") is None:
        raise ValueError("diffusers' tests import the package parameterized. Run: pip install parameterized")
    setup = path / "setup.py"
    version = re.search(r'version="([^"]+)"', setup.read_text()) if setup.is_file() else None
    return version[1] if version else "unknown"


def run_suites(path: Path, suites: list[str], report: Path) -> int:
    """Run the suites in a process of their own and return pytest's exit code; the results go to `report`."""
    # Its own ini file: neither our options nor those of the checkout fit.
    ini = report.with_name("pytest.ini")
    ini.write_text("[pytest]\n")
    files = [str(ROOT / "tools" / "suites" / f"{name}.py") for name in suites]
    environment = os.environ | {
        # Our package first; `tests` is found in the working directory, which pytest puts before both.
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep),
        "HF_HUB_OFFLINE": "1",
    }
    options = [
        "-c",
        str(ini),
        "-p",
        "no:cacheprovider",
        "-q",
        "--import-mode=importlib",
        f"--junitxml={report}",
    ]
    command = [sys.executable, "-m", "pytest", *options, *files]
    return subprocess.run(command, cwd=path, env=environment, check=False).returncode


def summarize(report: Path) -> Iterator[str]:
    """Lines with the counts of every class, and the reasons of what was not run or failed."""
    counts: dict[str, Counter[str]] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        name = case.get("classname", "").rpartition(".")[2]
        outcome = next((child for child in case if child.tag in ("skipped", "failure", "error")), None)
        kind = "passed" if outcome is None else outcome.tag
        counts.setdefault(name, Counter())[kind] += 1
        if outcome is not None:
            yield f"{kind}: {name}.{case.get('name')}: {(outcome.get('message') or '').splitlines()[0]}"
    for name, counter in counts.items():
        yield f"{name}: " + ", ".join(f"{count} {kind}" for kind, count in sorted(counter.items()))


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkout", type=Path, help="folder of a checked-out diffusers")
    parser.add_argument("--suite", choices=SUITES, action="append", help="only this one; may be repeated")
    arguments = parser.parse_args()
    try:
        version = check_checkout(arguments.checkout)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        code = run_suites(arguments.checkout.resolve(), arguments.suite or list(SUITES), report)
        if report.is_file():
            print("\n".join(summarize(report)))
    print(f"tests of diffusers {version}, run on diffusers {metadata.version('diffusers')}")
    return code


if __name__ == "__main__":
    sys.exit(main())
