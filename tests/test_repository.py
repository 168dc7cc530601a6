"""What the repository promises beside its code: configs load, documented commands exist, rules hold."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from jaxtyping import TypeCheckError
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from pydantic import BaseModel

from swd_video.cli.commands import COMMANDS
from swd_video.cli.main import main
from swd_video.config import load_config_as, parse_overrides
from swd_video.core.flow import add_noise
from swd_video.cost.counting import Flops
from swd_video.data.sections import SynthesizeConfig
from swd_video.evaluation.config import EvaluateConfig
from swd_video.studio.script import load_script
from swd_video.studio.yaml_script import parse_script
from swd_video.training.config import DistillConfig, load_config
from swd_video.training.decoder_config import DecoderConfig
from tools.pocket.study import StudyConfig
from tools.pocket.world import World

ROOT = Path(__file__).parents[1]
_SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, IMPORT_RULES = _SETTINGS["project"], _SETTINGS["tool"]["importlinter"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
# Configs of others than `distill`, by the name of the file, which is that of the command or tool.
OTHER_SCHEMAS: dict[str, type[BaseModel]] = {
    "decoder": DecoderConfig,
    "decoder_for_student": DecoderConfig,
    "decoder_crisp": DecoderConfig,
    "decoders": EvaluateConfig,
    "evaluate": EvaluateConfig,
    "final": EvaluateConfig,
    "rehearsal": World,
    "steps": EvaluateConfig,
    "steps_pixels": EvaluateConfig,
    "study": StudyConfig,
    "synthesize": SynthesizeConfig,
    "world": World,
}
MAKE_TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(document: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", document.read_text(), flags=re.MULTILINE | re.DOTALL)


def shell_commands(document: Path) -> list[list[str]]:
    lines = "".join(blocks(document, "(?:sh|bash)")).replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def help_of(command: str, capsys: pytest.CaptureFixture[str], *parts: str) -> str:
    try:
        code: object = main([command, *parts, "--help"])
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code in (0, None), captured.err
    return captured.out


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_every_config_loads(path: Path) -> None:
    if path.parent.name == "scripts":
        assert load_script(path).shots
    elif path.parent.name == "accelerate":
        # The launcher's, which sets no precision: that is the distillation config's matter.
        assert load_config_from_file(str(path)).mixed_precision == "no"
    elif path.stem in OTHER_SCHEMAS:
        load_config_as(OTHER_SCHEMAS[path.stem], path)
    else:
        assert len(load_config(path).scale_schedule())


def test_there_are_configs_and_documents_to_check() -> None:
    assert {"configs/scripts/demo.yaml", "configs/pocket/swd.yaml"} <= set(map(name_of, CONFIGS))
    assert {"README.md", "CONTRIBUTING.md", "docs/method.md"} <= set(map(name_of, DOCUMENTS))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = help_of(command, capsys)
    assert "usage" in text.lower()
    assert "--json" in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_documented_commands_exist(document: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in shell_commands(document):
        program = Path(words[0]).name
        if program == "make":
            assert {word for word in words[1:] if "=" not in word} <= MAKE_TARGETS, words
        elif program == "swd-video" and words[1] in COMMANDS:
            parts = words[2:3] if words[1] == "bench" else []
            check_flags(words[1], words[2:], help_of(words[1], capsys, *parts))
        elif program == "swd-video":
            assert words[1] in ("--help", "--version"), words
        for word in words[1:]:
            if word.startswith("tools."):
                assert (ROOT / word.replace(".", "/")).with_suffix(".py").exists(), words
            if word.startswith(("configs/", "tools/", "tests/")):
                assert (ROOT / word.partition("::")[0]).exists(), words
            for extra in re.findall(r"\[([a-z,]+)\]$", word):
                assert set(extra.split(",")) <= set(PROJECT["optional-dependencies"]), words


def check_flags(command: str, arguments: list[str], text: str) -> None:
    flags = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    # These take any key of their config as a flag; the config itself knows which there are.
    schema, own = OTHER_SCHEMAS.get(command, DistillConfig), set(re.findall(r"--[a-z][a-z-]*", text))
    keys = flags - own if command in ("encode", "distill", "adapt", "plan", *OTHER_SCHEMAS) else set()
    assert flags - keys <= own, arguments
    for flag in keys:
        at = [word.partition("=")[0] for word in arguments].index(flag)
        overrides = parse_overrides(arguments[at : at + 1 + ("=" not in arguments[at])])
        load_config_as(schema, ROOT / arguments[0], overrides)


def anchors_of(document: Path) -> set[str]:
    """What links may name behind a #: the headings, as GitHub turns them into anchors."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.MULTILINE | re.DOTALL)
    found: list[str] = []
    for heading in re.findall(r"^#+ (.+?)\s*$", text, flags=re.MULTILINE):
        words = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        found.append(f"{anchor}-{found.count(anchor)}" if anchor in found else anchor)
    return set(found)


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_links_between_documents_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", document.read_text())
    broken = []
    for link in (link for link in links if "://" not in link):
        path, _, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (anchor and anchor not in anchors_of(target)):
            broken.append(link)
    assert broken == []


def test_documented_scripts_are_scripts() -> None:
    scripts = [(doc, text) for doc in DOCUMENTS for text in blocks(doc, "yaml") if "\nshots:" in text]
    assert ROOT / "README.md" in [document for document, _ in scripts]
    for document, text in scripts:
        assert list(parse_script(text, name_of(document)).takes())


def commands_in_comments(config: Path) -> list[list[str]]:
    lines = re.findall(r"^#\s+(swd-video .*)$", config.read_text(), flags=re.MULTILINE)
    return [shlex.split(line) for line in lines]


@pytest.mark.parametrize("path", [path for path in CONFIGS if commands_in_comments(path)], ids=name_of)
def test_commands_in_the_comments_of_configs_are_commands(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for _, command, config, *flags in commands_in_comments(path):
        assert (ROOT / config).is_file(), config
        check_flags(command, [config, *flags], help_of(command, capsys))


@pytest.mark.parametrize("name", ["swd_4stage", "ours_4stage", "pyramidal_2-2-1"])
def test_presets_find_the_teachers_clips_where_their_comments_make_them(name: str) -> None:
    folder = ROOT / "configs/wan2.1_1.3b"
    config = load_config(folder / f"{name}.yaml")
    (words,) = [words for words in commands_in_comments(folder / f"{name}.yaml") if words[1] == "synthesize"]
    assert config.data.manifest is None
    assert config.data.cache == words[words.index("--out") + 1]
    overrides = parse_overrides(words[3:])
    overrides.pop("out")
    clips = load_config_as(SynthesizeConfig, ROOT / words[2], overrides)
    assert (clips.model, clips.steps, clips.guidance_scale) == (config.model, 50, 5)
    assert set(config.scale_schedule().grids) <= set(clips.latent_grids)
    assert clips.latent_grids[-1] == config.scale_schedule().target


def test_the_newcomers_path_in_the_readme_exists() -> None:
    path = re.search(r"six short files:\n(.*?)\n\n", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    assert path is not None
    files = re.findall(r"`([^`]+)`", path[1])
    assert len(files) == 6
    lengths = {file: len((ROOT / "swd_video" / file).read_text().splitlines()) for file in files}
    assert [file for file, length in lengths.items() if length > 350] == [], "each reads in one go"


def test_the_hosted_workflow_runs_what_a_change_must_pass() -> None:
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    commands = [step["run"] for step in workflow["jobs"]["check"]["steps"] if "run" in step]
    assert commands == [".ci/run"]
    assert (ROOT / commands[0]).stat().st_mode & 0o111


def test_a_report_of_an_error_asks_for_what_doctor_prints(capsys: pytest.CaptureFixture[str]) -> None:
    forms = {
        path.stem: yaml.safe_load(path.read_text()) for path in ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")
    }
    for name in ("bug", "wish"):
        assert {"name", "description", "body"} <= set(forms[name])
    labels = " ".join(part["attributes"]["label"] for part in forms["bug"]["body"])
    (command,) = re.findall(r"`swd-video ([^`]+)`", labels)
    name, *flags = command.split()
    check_flags(name, flags, help_of(name, capsys))


def test_the_citation_names_this_package_and_its_method() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert {"cff-version", "message", "title", "authors"} <= set(citation)
    assert (citation["title"], citation["license"]) == (PROJECT["name"], PROJECT["license"])
    assert "2503.16397" in citation["references"][0]["url"]


def test_the_layout_in_contributing_is_the_packages() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    (contract,) = (rules for rules in IMPORT_RULES["contracts"] if rules["type"] == "layers")
    line = text[text.index("**Imports point down only**") :].partition(". Names joined")[0]
    assert re.findall(r"`([^`]+)`", line) == contract["layers"]
    package = {path.stem for path in (ROOT / "swd_video").iterdir() if path.suffix in ("", ".py")} - {
        "__init__"
    }
    table = text[text.index("| room | holds |") : text.index("Beside the package:")]
    rows = " ".join(row.split("|")[1] for row in table.splitlines()[2:] if row.count("|") > 2)
    assert set(re.findall(r"`(\w+)[/.]", rows)) == package - {"__pycache__"}


def test_import_rules_hold() -> None:
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Contracts:" in result.stdout


def test_only_who_trains_and_who_counts_training_sees_a_whole_config() -> None:
    package = ROOT / "swd_video"
    users = {
        file.relative_to(package).as_posix()
        for file in package.rglob("*.py")
        if re.search(r"\bDistillConfig\b", file.read_text())
    }
    assert {user for user in users if not user.startswith(("cli/", "cost/", "training/"))} == {"__init__.py"}


def test_every_dependency_is_pinned_within_its_range() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {}
    for line in lines:
        if line and not line.startswith("#"):
            pin = re.fullmatch(r"([\w.-]+)==([\w.]+)", line)
            assert pin is not None, line
            pins[canonicalize_name(pin[1])] = pin[2]
    extras = PROJECT["optional-dependencies"].values()
    for text in [*PROJECT["dependencies"], *(item for extra in extras for item in extra)]:
        requirement = Requirement(text)
        pinned = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(pinned), f"{requirement} does not accept {pinned}"


def test_shapes_and_types_are_checked_under_pytest() -> None:
    with pytest.raises(TypeCheckError):
        add_noise(torch.zeros(1, 2, 3, 4, 5), torch.zeros(1, 2, 3, 4, 6), 0.5)
    with pytest.raises(TypeCheckError):
        parse_overrides(5)  # type: ignore[arg-type] # a function without shapes
    with pytest.raises(TypeCheckError):
        Flops("many")  # type: ignore[arg-type] # what makes a dataclass


def test_shipped_models_name_no_folder_of_the_machine_that_made_them() -> None:
    configs = sorted((ROOT / "swd_video" / "assets").rglob("*.json"))
    assert configs
    assert not [path for path in configs if "_name_or_path" in path.read_text(encoding="utf-8")]
