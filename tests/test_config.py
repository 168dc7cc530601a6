"""Configs: merging, overrides, round trips, and errors that name the file, the line and the key."""

import math
from pathlib import Path
from typing import Literal

import pytest
from pydantic import ValidationError

from swd_video.config import ConfigError, Section, dump_config, flatten, parse_overrides
from swd_video.core.grid import LatentSize
from swd_video.core.local_attention import LocalAttention
from swd_video.training.config import DistillConfig, FullTrainConfig, LoraTrainConfig, load_config
from swd_video.training.optimizers import MuonConfig
from swd_video.yaml_source import SourceError, dump_values, parse_value, read_source

BASE = """\
model: some-teacher
data:
  cache: out/cache
schedule:
  - {sigma: 1.0, frames: 2, height: 4, width: 4}
  - {sigma: 0.5, frames: 3, height: 6, width: 8}
train:
  kind: full
  steps: 10
  lr: 2e-4
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.yaml"
    path.write_text(BASE)
    return path


def _error(path: Path, overrides: dict[str, str] | None = None) -> str:
    with pytest.raises(SourceError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def _edited(base: Path, old: str, new: str) -> Path:
    assert old in BASE
    path = base.with_name("edited.yaml")
    path.write_text(BASE.replace(old, new))
    return path


def test_windows_of_a_stage_are_read_kept_and_left_out_where_there_are_none(base: Path) -> None:
    last = "sigma: 0.5, frames: 3, height: 6, width: 8"
    window = "attention: {frames: 2, height: 4, width: 4}"
    path = _edited(base, last, f"{last}, {window}")
    config = load_config(path)
    attention = LocalAttention(2, 4, 4)
    assert [stage.attention for stage in config.scale_schedule()] == [None, attention]
    assert dump_config(config).count("attention:") == 1 + dump_config(load_config(base)).count("attention:")
    path.write_text(dump_config(config))
    assert load_config(path) == config
    broken = _edited(base, last, f"{last}, {window.replace('height: 4', 'height: 0')}")
    assert "schedule[1].attention.height: input should be greater than or equal to 1, got 0" in _error(broken)


def test_reads_values_and_defaults(base: Path) -> None:
    config = load_config(base)
    assert config.model == "some-teacher"
    assert isinstance(config.train, FullTrainConfig)
    assert config.train.lr == 2e-4
    (term,) = config.loss.mmd
    assert term.kernel.kind == "linear" and term.sigma_max == 0.6
    assert config.scale_schedule().target == LatentSize(3, 6, 8)


def test_is_frozen(base: Path) -> None:
    with pytest.raises(ValidationError, match="frozen"):
        load_config(base).seed = 3  # type: ignore[misc]


def test_the_dump_is_valid_input_and_equal(base: Path, tmp_path: Path) -> None:
    config = load_config(
        base, {"train.lr": "1e-5", "train.optimizer": "{kind: muon}", "train.sample_prompts": "[é]"}
    )
    again = tmp_path / "resolved.yaml"
    again.write_text(dump_config(config), encoding="utf-8")
    assert load_config(again) == config


def test_extends_merges_mappings_and_replaces_lists(base: Path) -> None:
    child = base.parent / "nested" / "child.yaml"
    child.parent.mkdir()
    child.write_text(
        "extends: ../base.yaml\nschedule: [{sigma: 1, frames: 3, height: 6, width: 8}]\ntrain: {steps: 20}\n"
    )
    config = load_config(child)
    assert config.train.steps == 20 and config.train.lr == 2e-4
    assert len(config.schedule) == 1


def test_a_child_can_turn_to_lora(base: Path) -> None:
    child = base.with_name("child.yaml")
    child.write_text("extends: base.yaml\ntrain: {kind: lora, rank: 8}\n")
    config = load_config(child)
    assert isinstance(config.train, LoraTrainConfig) and config.train.rank == 8 and config.train.steps == 10


def test_extends_in_a_circle_is_refused(base: Path) -> None:
    base.write_text("extends: base.yaml\n" + BASE)
    assert "extends itself" in _error(base)


def test_extends_of_a_missing_file_names_both(base: Path) -> None:
    base.write_text("extends: nowhere.yaml\n" + BASE)
    message = _error(base)
    assert message.startswith(f"{base}:1: extends:") and "nowhere.yaml" in message


def test_overrides_win(base: Path) -> None:
    overrides = parse_overrides(
        ["--train.lr", "1e-3", "--train.optimizer.kind=muon", "--data.encode-batch-size", "2"]
    )
    config = load_config(base, overrides)
    assert config.train.lr == 1e-3
    assert isinstance(config.train.optimizer, MuonConfig)
    assert config.data.encode_batch_size == 2


def test_a_mapping_of_an_override_is_merged_as_one_of_a_file(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base.write_text(BASE.replace("lr: 2e-4", "lr: 2e-4\n  optimizer: {kind: adamw, betas: [0.8, 0.9]}"))
    values = "steps: 20, optimizer: {weight_decay: 0.1}"
    child = base.with_name("child.yaml")
    child.write_text(f"extends: base.yaml\ntrain: {{{values}}}\n")
    config = load_config(base, {"train": f"{{{values}}}"})
    assert config == load_config(child)
    assert config.train.lr == 2e-4 and config.train.steps == 20
    lora = load_config(base, {"train": "{rank: 8, optimizer: {kind: muon}, kind: lora}"}).train
    assert isinstance(lora, LoraTrainConfig) and isinstance(lora.optimizer, MuonConfig) and lora.lr == 2e-4
    assert "train.optimizer.kind is muon now: left out train.optimizer.betas" in capsys.readouterr().err
    assert _error(base, {"train": "{lrr: 1}"}).startswith("--train: train.lrr: unknown key; did you mean lr")
    assert _error(base, {"train": "{steps: no}"}).startswith("--train: train.steps: ")
    # What the flag does not say stands where the file says it.
    base.write_text(BASE.replace("lr: 2e-4", "lr: -1"))
    assert _error(base, {"train": "{steps: 20}"}).startswith(f"{base}:10: train.lr: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("runs/a #1", "runs/a #1"),
        ("#1", "#1"),
        ("'runs/a #1'", "runs/a #1"),
        ("1e-4", 1e-4),
        ("1e-4 # half", "1e-4 # half"),
        ("null", None),
        ("", None),
        ("[1, 2] # both", [1, 2]),
    ],
)
def test_plain_text_of_an_override_holds_no_comment(text: str, value: object) -> None:
    assert parse_value(text) == value


@pytest.mark.parametrize("words", [["train.lr", "1"], ["--train.lr"], ["--train.lr", "--seed", "1"], ["--"]])
def test_malformed_overrides_are_refused(words: list[str]) -> None:
    with pytest.raises(ConfigError):
        parse_overrides(words)


def test_unknown_key_names_file_line_key_and_the_likely_one(base: Path) -> None:
    path = _edited(base, "  steps: 10\n", "  setps: 10\n")
    assert _error(path) == f"{path}:9: train.setps: unknown key; did you mean steps?"


def test_unknown_key_far_from_all_lists_what_is_known(base: Path) -> None:
    assert _error(_edited(base, "  cache:", "  cache: x\n  zzz:")).endswith(
        "data.zzz: unknown key; known here: cache, encode_batch_size, extra_grids, manifest"
    )


def test_all_mistakes_are_told_at_once(base: Path) -> None:
    base.write_text(BASE + "sede: 3\nload: {decoder: 5, attention: nativ}\n")
    with pytest.raises(ConfigError) as raised:
        load_config(base, {"train.lr": "0", "train.stepz": "4"})
    lines = str(raised.value).splitlines()
    written = len(BASE.splitlines())
    assert lines == [
        "train.stepz: unknown key; did you mean steps?",
        f"{base}:{written + 1}: sede: unknown key; did you mean seed?",
        f"{base}:{written + 2}: load.attention: input should be 'auto', 'native', 'xformers', 'flash' or 'sage', got "
        "'nativ'",
        f"{base}:{written + 2}: load.decoder: input should be 'vae', or expected a path, got 5",
        "train.lr: input should be greater than 0, got 0",
    ]
    foreign = _edited(base, "model:", "quux: 1\nzap: 2\nmodel:")
    with pytest.raises(ConfigError, match=r"quux: unknown key; known here: adapt.*\n.*zap: unknown key$"):
        load_config(foreign)


def test_what_is_missing_and_was_mistyped_is_told_once(base: Path) -> None:
    base.write_text(base.read_text().replace("model:", "modle:"))
    with pytest.raises(ConfigError, match=r"modle: unknown key; did you mean model\?$"):
        load_config(base)


def test_a_key_of_another_kind_is_said_to_be(base: Path) -> None:
    message = _error(_edited(base, "  steps: 10\n", "  rank: 10\n"))
    assert message.endswith(
        "train.rank: unknown key of kind full: it belongs to lora; leave it out, or set kind"
    )
    message = _error(base, {"train.kind": "fulll"})
    assert message == "train.kind: got 'fulll', expected one of 'full', 'lora'"


@pytest.mark.parametrize(
    ("section", "kinds", "own"),
    [
        ("train", ("full", "lora"), "rank: 8"),
        ("train.optimizer", ("adamw", "muon"), "momentum: 0.5"),
    ],
)
def test_another_kind_leaves_out_what_only_the_former_has(
    base: Path, section: str, kinds: tuple[str, str], own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def nested(values: str) -> str:
        *outer, last = section.split(".")
        return "".join(f"{part}: {{" for part in outer) + f"{last}: {{{values}}}" + "}" * len(outer)

    first, second = kinds
    key = own.split(":")[0]
    child, grandchild = base.with_name("child.yaml"), base.with_name("grandchild.yaml")
    text = BASE if section == "train" else BASE.replace("lr: 2e-4", "lr: 2e-4\n  optimizer: {kind: adamw}")
    base.write_text(text)
    child.write_text(f"extends: base.yaml\n{nested(f'kind: {second}, {own}')}\n")
    written = getattr(load_config(child), section.split(".")[0])
    assert flatten(load_config(child))[f"{section}.{key}"] is not None, written
    assert not capsys.readouterr().err
    # Through a flag, through a file, and the other way round in any order of the words.
    with_flag = load_config(child, {f"{section}.kind": first})
    note = f"note: {section}.kind is {first} now: left out {section}.{key} ({child}:2), which {second} has.\n"
    assert capsys.readouterr().err == note
    grandchild.write_text(f"extends: child.yaml\n{nested(f'kind: {first}')}\n")
    assert load_config(grandchild) == with_flag == load_config(base, {f"{section}.kind": first})
    assert capsys.readouterr().err == note
    words = {f"{section}.{key}": own.split(": ")[1], f"{section}.kind": second}
    assert load_config(base, words) == load_config(child)


def test_missing_key_is_named(base: Path) -> None:
    message = _error(_edited(base, "data:\n  cache: out/cache\n", "data: {}\n"))
    assert ":2: data.cache: missing" in message


def test_missing_kind_is_named(base: Path) -> None:
    assert "train.kind: missing" in _error(_edited(base, "  kind: full\n", ""))


def test_wrong_value_says_what_was_got(base: Path) -> None:
    message = _error(_edited(base, "lr: 2e-4", "lr: -1"))
    assert ":10: train.lr:" in message and "greater than 0" in message and "got -1" in message


def test_true_and_false_are_no_numbers(base: Path) -> None:
    path = _edited(base, "steps: 10\n  lr: 2e-4", "steps: true\n  lr: 2e-4\n  gradient_checkpointing: true")
    assert _error(path) == f"{path}:9: train.steps: expected a number, got true"
    for key, value, said in (
        ("train.sample_every", "false", "train.sample_every: expected a number, got false"),
        (
            "train.stage_weights",
            "[1, true]",
            "--train.stage_weights: train.stage_weights[1]: expected a number, got",
        ),
        ("loss.mmd", "[{}, {weight: true}]", "--loss.mmd: loss.mmd[1].weight: expected a number, got true"),
        ("train.optimizer", "{kind: adamw, weight_decay: true}", "weight_decay: expected a number, got true"),
        ("loss.mmd", "[{block: true}]", "loss.mmd[0].block: expected a list"),
    ):
        assert said in _error(base, {key: value})
    with pytest.raises(ConfigError, match=r"train\.lr: expected a number, got true\nseed: expected a number"):
        load_config(base, {"train.lr": "true", "seed": "true"})


def test_what_should_be_a_list_or_a_mapping_is_asked_for_as_a_file_writes_it(base: Path) -> None:
    prompts = {"train.sample_prompts": "a fox"}
    assert (
        _error(base, prompts) == "train.sample_prompts: expected a list, such as [first, second], got 'a fox'"
    )
    keys = "expected keys and values, such as {key: value}, got"
    for section in ("train.optimizer", "loss.dmd", "loss"):
        assert _error(base, {section: "muon"}) == f"{section}: {keys} 'muon'"


def test_an_error_in_the_parent_names_the_parent(base: Path) -> None:
    base.write_text(BASE.replace("steps: 10", "steps: none"))
    child = base.with_name("child.yaml")
    child.write_text("extends: base.yaml\nseed: 1\n")
    assert _error(child).startswith(f"{base}:9: train.steps:")


def test_an_error_in_an_override_names_the_flag(base: Path) -> None:
    assert _error(base, {"train.lrr": "1"}).startswith("train.lrr: unknown key; did you mean lr")
    assert "--model.name" in _error(base, {"model.name": "x"})


def test_a_bad_schedule_names_the_stage_and_the_line(base: Path) -> None:
    message = _error(_edited(base, "frames: 3, height: 6", "frames: 1, height: 6"))
    assert message.startswith(f"{base.with_name('edited.yaml')}:") and "schedule[1]" in message
    assert "1 latent frames cannot follow 2" in message


def test_a_stage_with_a_wrong_key_is_located(base: Path) -> None:
    message = _error(_edited(base, "{sigma: 0.5,", "{sgima: 0.5,"))
    assert message.endswith(":6: schedule[1].sgima: unknown key; did you mean sigma?")


def test_rules_across_keys(base: Path) -> None:
    assert "stage_weights has 1 numbers for 2 stages" in _error(base, {"train.stage_weights": "[1]"})
    assert "loss.gan.stages: 3 does not exist; the schedule has stages 1 to 2" in _error(
        base, {"loss": "{mmd: [{}], gan: {stages: [1, 3]}}"}
    )
    assert "loss: nothing has a say in stage 2; name it" in _error(
        base, {"loss": "{mmd: [], gan: {stages: [1]}}"}
    )
    early = {"loss": "{mmd: [{}], dmd: {stages: [1]}}", "train.backward_simulation": "0.5"}
    assert "0.5 of the clips of stage 2 have no pair, and no loss there does without" in _error(base, early)
    assert load_config(base, early | {"loss": "{mmd: [{}], dmd: {stages: [2]}}"}).loss.dmd is not None
    assert "sample_prompts is empty" in _error(base, {"train.sample_every": "5"})
    assert "sigma_min 0.5 is above" in _error(base, {"loss.mmd": "[{sigma_min: 0.5, sigma_max: 0.4}]"})
    teacher = {"train.teacher_samples": "{steps: 4}", "train.sample_prompts": "[a fox]"}
    assert "sample_every is 0, which makes none" in _error(base, teacher)
    assert load_config(base, {**teacher, "train.sample_every": "5"}).train.teacher_samples is not None
    unguided = "{negative_prompt: blur, guidance_scale: 1}"
    assert "loss.dmd: negative_prompt: guidance_scale 1 is no guidance" in _error(
        base, {"loss.dmd": unguided}
    )


@pytest.mark.parametrize(
    "loss, message",
    [
        (
            "{mmd: [{kernel: {kind: rbf, bandwidths: [1, 0]}}]}",
            "loss.mmd[0].kernel.bandwidths[1]: input should be greater than 0",
        ),
        ("{mmd: [{kernel: {bandwidths: [2]}}]}", "loss.mmd[0].kernel.kind: missing; add it"),
        (
            "{mmd: [{}, {kernel: {kind: rbf, alpha: 2}}]}",
            "loss.mmd[1].kernel.alpha: unknown key of kind rbf: it belongs to rational_quadratic; leave it out",
        ),
        (
            "{mmd: [{kernel: {kind: pseudo_huber, estimator: unbiased}}]}",
            "loss.mmd[0].kernel.estimator: input should be 'biased', got 'unbiased'",
        ),
        (
            "{mmd: [{kernel: {kind: linear, random_features: 64}}]}",
            "loss.mmd[0].kernel.random_features: unknown key of kind linear: it belongs to rbf",
        ),
        (
            "{mmd: [{kernel: {kind: rbf, bandwidths: [1, 2, 4], random_features: 64}}]}",
            "loss.mmd[0].kernel: random_features 64 are shared by 3 bandwidths; give a multiple",
        ),
        (
            "{mmd: [{kernel: {kind: rbf, bandwidth: 2}}]}",
            "loss.mmd[0].kernel.bandwidth: unknown key; did you mean bandwidths?",
        ),
        ("{mmd: [{tubes: [1, 1, 2]}]}", "tokens is clip; set tokens to tube"),
        ("{mmd: [{block: -1}]}", "loss.mmd[0].block[0]: input should be greater than or equal to 0"),
        ("{mmd: [{block: [1, 2], block_weights: [1]}]}", "block_weights has 1 numbers for 2 listed blocks"),
        ("{mmd: [{join: means}]}", "loss: mmd: join needs several clips to a prompt; set group to 2 or more"),
        ("{group: 2}", "loss: group 2, but no comparison of mmd joins clips; set join"),
        ("{mmd: [{weight: 0}]}", "loss: nothing to train on: no comparison of mmd has a weight"),
        ("{mmd: [{sigma_min: 0.7}]}", "loss.mmd[0]: sigma_min 0.7 is above sigma_max 0.6"),
        (
            "{group: 3, mmd: [{join: means}]}",
            "train.batch_size: 8 clips are not a whole number of loss.group 3",
        ),
        ("{others: [{kind: nothing}]}", "loss.others[0]: kind: got 'nothing', expected an importable module:Class"),
        # As configs were written before.
        ("{mmd: {kernel: rbf}}", "loss.mmd: got keys, expected a list of comparisons, each with all its keys: `mmd: ["),
        ("{mmd: [{kernel: rbf}]}", "loss.mmd[0].kernel: got the word 'rbf', expected a section: write {kind: rbf}"),
    ],
)  # fmt: skip
def test_losses_that_make_no_sense_are_refused(base: Path, loss: str, message: str) -> None:
    error = _error(base, {"loss": loss})
    assert message in error
    assert "\n" not in error


def test_backward_simulation_needs_a_loss_that_compares_no_pairs(base: Path) -> None:
    own = {"train.backward_simulation": "0.5"}
    assert "train.backward_simulation: 0.5 of the clips of stage 2 have no pair" in _error(base, own)
    more_pairs = own | {"loss": "{mmd: [{}, {tokens: motion}]}"}
    assert "train.backward_simulation: 0.5 of the clips of stage 2 have no pair" in _error(base, more_pairs)
    for loss in ("{dmd: {}}", "{gan: {}}", "{group: 2, mmd: [{}, {join: means}]}"):
        assert load_config(base, own | {"loss": loss}).train.backward_simulation == 0.5


def test_a_list_of_comparisons_survives_being_saved(base: Path) -> None:
    mmd = """[{kernel: {kind: pseudo_huber}, block: [1, 2], block_weights: [1, 3], sigma_max: 0.5},
        {kernel: {kind: rbf}, join: means, block: 0, sigma_min: 0.1}, {weight: 0}]"""
    config = load_config(base, {"loss.mmd": mmd, "loss.group": "4"})
    first, second, _ = config.loss.mmd
    assert (first.block, first.block_weights, second.block, second.sigma_max) == (
        (1, 2),
        (1.0, 3.0),
        (0,),
        0.6,
    )
    assert list(config.loss.objectives) == ["mmd"] and config.loss.objectives["mmd"].weight == 1
    again = base.with_name("again.yaml")
    again.write_text(dump_config(config))
    assert load_config(again) == config


def test_a_key_written_twice_is_refused(base: Path) -> None:
    path = _edited(base, "  steps: 10\n", "  steps: 10\n  steps: 20\n")
    assert _error(path) == f"{path}:10: train.steps: written twice, first at {path}:9. Keep one."


def test_broken_yaml_and_missing_files_are_one_line(base: Path) -> None:
    assert "not valid YAML" in _error(_edited(base, "data:", "data: ]"))
    assert "no such config file" in _error(base.with_name("none.yaml"))
    unclosed = _edited(base, "data:", "model: 'pocket-wan\ndata:")
    line = unclosed.read_text()[: unclosed.read_text().index("'pocket")].count("\n") + 1
    cure = "Check indentation and quotes."
    assert (
        _error(unclosed)
        == f"{unclosed}:{line}: not valid YAML: a quote that opens here is not closed. {cure}"
    )
    base.write_text("data: \x00")
    assert _error(base).startswith(f"{base}:1: not valid YAML: a character that no text may hold")
    base.write_text("- a\n- b\n")
    assert "expected keys" in _error(base)


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("1e-4", 1e-4),
        ("-.5", -0.5),
        ("+7", 7),
        ("1:30", "1:30"),
        ("010", "010"),
        ("0x10", "0x10"),
        ("1_000", "1_000"),
        ("no", "no"),
        ("true", True),
        ("~", None),
        ("2026-11-28", "2026-11-28"),
        ("'7'", "7"),
        ("[1, null, .inf]", [1, None, math.inf]),
    ],
)
def test_plain_text_is_what_yaml_1_2_takes_it_for(written: str, value: object, tmp_path: Path) -> None:
    path = tmp_path / "one.yaml"
    path.write_text(f"key: {written}\n")
    values, origins = read_source(path, "file").values()
    assert values == {"key": value} and type(values["key"]) is type(value)
    assert origins["key",] == f"{path}:1" and parse_value(written) == value


def test_flatten_gives_dotted_keys(base: Path) -> None:
    flat = flatten(load_config(base))
    assert flat["train.lr"] == 2e-4 and flat["loss.group"] == 1
    assert isinstance(flat["schedule"], list)


def test_every_key_of_the_schema_is_explained() -> None:
    schema = DistillConfig.model_json_schema()
    for section in ("DataConfig", "FullTrainConfig", "LoraTrainConfig", "LossConfig", "MmdTermConfig"):
        for key, entry in schema["$defs"][section]["properties"].items():
            plain = key in ("kind", "optimizer")
            assert plain or entry.get("description"), f"{section}.{key} has no description"


def test_what_is_dumped_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "odd.yaml"
    odd = [
        "1e-4",
        "1:30",
        "no",
        "010",
        "yes",
        "~",
        "true",
        "1",
        "",
        "on: off",
        "é",
        1e-05,
        1e300,
        7,
        None,
        False,
    ]
    path.write_text(dump_values({"odd": odd, "4090": 1}), encoding="utf-8")
    values, _ = read_source(path, "file").values()
    assert values == {"odd": odd, "4090": 1}
    assert list(map(type, values["odd"])) == list(map(type, odd))


def test_keys_are_texts_and_anchors_may_branch_and_meet(tmp_path: Path) -> None:
    tree = "".join(f"n{n}: &n{n} [{', '.join([f'*n{n - 1}'] * 9)}]\n" for n in range(1, 30))
    path = tmp_path / "tree.yaml"
    path.write_text(f"4090: 1\nno: 2\nn0: &n0 [1]\n{tree}loop: &loop [*loop]\n")
    values, origins = read_source(path, "file").values()
    assert (values["4090"], values["no"], values["n1"]) == (1, 2, [[1]] * 9)
    assert origins["n29", 8] == f"{path}:31" and origins["loop", 0] == f"{path}:33"


def test_a_home_in_a_path_is_that_home(monkeypatch: pytest.MonkeyPatch) -> None:
    class Files(Section):
        one: Path
        more: tuple[Path, ...] = ()
        decoder: Literal["vae"] | Path | None = None

    monkeypatch.setenv("HOME", "/home/tiger")
    found = Files.model_validate({"one": "~/a", "more": ["b", "~/c"], "decoder": "vae"})
    assert (found.one, found.more) == (Path("/home/tiger/a"), (Path("b"), Path("/home/tiger/c")))
    assert found.decoder == "vae"
