"""Which adapter belongs to a pipeline; adapters from outside of the package."""

import sys
from pathlib import Path
from typing import cast

import pytest
import torch
from diffusers import ModelMixin

from swd_video.core.schedule import ScaleSchedule
from swd_video.cost.architecture import load_architecture
from swd_video.models.loading import LoadOptions, load_teacher
from swd_video.models.registry import ADAPTERS, adapter_for
from swd_video.schedulers import ScaleWiseFlowMatchScheduler
from swd_video.student.student import Student, load_student

from ..forked import run_forked

_OWN_ADAPTER = '''
from swd_video.models.wan import WanModel


class OwnModel(WanModel):
    """Wan under another name."""

    family = "own"
'''
_METADATA = "Metadata-Version: 2.1\nName: own-models\nVersion: 1\n"


@pytest.fixture
def own_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_models.py").write_text(_OWN_ADAPTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "own_models", raising=False)
    return "own_models:OwnModel"


def test_every_pipeline_of_the_table_has_its_adapter() -> None:
    assert {adapter_for(name).family for name in ADAPTERS} == {"wan", "ltx", "hunyuan", "cogvideox"}


def test_only_the_family_that_is_asked_for_is_imported() -> None:
    program = (
        "import sys\nours = [name for name in sys.modules if name.startswith('swd_video')]\n"
        "for name in ours: del sys.modules[name]\n"
        "from swd_video.models.registry import adapter_for\nadapter_for('LTXPipeline')\n"
        "print([name for name in sys.modules if name.startswith('swd_video.models.')])"
    )
    run = run_forked(program)
    assert run.returncode == 0, run.stderr
    modules = run.stdout
    assert "'swd_video.models.ltx'" in modules
    assert not any(family in modules for family in ("models.wan", "models.hunyuan", "models.cogvideox"))


def test_an_adapter_from_outside_can_be_named(tiny_wan_folder: Path, own_adapter: str) -> None:
    own = load_teacher(tiny_wan_folder, options=LoadOptions(adapter=own_adapter))
    assert own.spec.family == "own"
    assert load_teacher(tiny_wan_folder).spec.family == "wan"
    latents = torch.randn(1, own.spec.latent_channels, 2, 4, 4)
    assert own.predict_velocity(latents, 0.5, own.encode_prompt(["a"])).shape == latents.shape


def test_a_student_records_the_adapter_that_was_named(
    tiny_wan_folder: Path, tiny_schedule: ScaleSchedule, own_adapter: str, tmp_path: Path
) -> None:
    model = load_teacher(tiny_wan_folder, options=LoadOptions(adapter=own_adapter))
    scheduler = ScaleWiseFlowMatchScheduler.from_schedule(tiny_schedule)
    student = Student(str(tiny_wan_folder), scheduler, adapter=own_adapter)
    student.save(tmp_path / "student", cast(ModelMixin, model.transformer))
    assert load_student(tmp_path / "student").model.spec.family == "own"
    record = tmp_path / "student" / "student.json"
    record.write_text(record.read_text().replace(own_adapter, "own_models:Missing"))
    with pytest.raises(ValueError, match=r"own_models:Missing: .*expected module:Class"):
        load_student(tmp_path / "student")


def test_models_are_planned_by_the_adapter_that_was_named(tiny_wan_folder: Path, own_adapter: str) -> None:
    assert load_architecture(tiny_wan_folder, own_adapter).model.spec.family == "own"


def test_an_installed_package_offers_adapters(own_adapter: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got a OwnPipeline, expected one of WanPipeline"):
        adapter_for("OwnPipeline")
    package = tmp_path / "own_models-1.dist-info"
    package.mkdir()
    (package / "METADATA").write_text(_METADATA)
    (package / "entry_points.txt").write_text(f"[swd_video.adapters]\nOwnPipeline = {own_adapter}\n")
    assert adapter_for("OwnPipeline").family == "own"
    assert adapter_for("WanPipeline", "OwnPipeline").family == "own"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("no_such_module:Model", "model .*no_such_module:Model: No module named .*expected module:Class"),
        ("own_models", "model .*adapter: own_models is no VideoModel; give the module:Class of one"),
        ("pathlib:Path", "model .*adapter: pathlib:Path is no VideoModel"),
    ],
)
def test_what_is_no_adapter_is_refused(
    name: str, expected: str, tiny_wan_folder: Path, own_adapter: str
) -> None:
    with pytest.raises(ValueError, match=expected):
        load_teacher(tiny_wan_folder, options=LoadOptions(adapter=name))
