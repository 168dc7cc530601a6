"""The network of pictures that a decoder's discriminator looks through."""

import base64
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import MobileNetV2Config, MobileNetV2Model

from tools.pocket.mobilenet import read_weights, state_dict
from tools.pocket.npm import npm_package


def test_bytes_become_tensors_by_scale_and_offset() -> None:
    content = np.arange(10, dtype=np.uint8)
    listed = ",".join(
        f'{{name:"{name}",shape:[{shape}],dtype:"float32",quantization:{{min:{low},scale:{scale},dtype:"uint8"}}}}'
        for name, shape, low, scale in (("a/kernel", "2,3", "-.5", "1e-1"), ("a/bias", "4", "1", ".25"))
    )
    shard = f'var s="use strict";return"{base64.b64encode(content).decode()}"'
    tensors = read_weights(f"weights:[{listed}]", shard)
    torch.testing.assert_close(tensors["a/kernel"], torch.arange(6.0).view(2, 3) * 0.1 - 0.5)
    torch.testing.assert_close(tensors["a/bias"], torch.arange(6.0, 10.0) * 0.25 + 1)
    with pytest.raises(ValueError, match=r"6 bytes of weights, expected the 10 that it holds"):
        read_weights(listed.partition("},{name")[0] + "}", shard)


def test_every_weight_of_the_network_has_a_name_in_the_package() -> None:
    wanted = MobileNetV2Model(MobileNetV2Config()).state_dict()
    published = {}
    for name, weight in wanted.items():
        block, _, part = name.rpartition(".")[0].rpartition(".")
        convolution = {"conv_stem.first_conv": "Conv1", "conv_1x1": "Conv_1"}.get(block)
        norm = {"Conv1": "bn_Conv1"}.get(str(convolution), f"{convolution}_bn")
        if convolution is None:
            front, _, layer = block.rpartition(".")
            of = "expanded_conv" if front == "conv_stem" else f"block_{int(front.partition('.')[2]) + 1}"
            convolution = (
                f"{of}_{dict(expand_1x1='expand', conv_3x3='depthwise', reduce_1x1='project')[layer]}"
            )
            norm = f"{convolution}_BN"
        if part == "convolution":
            depthwise = weight.shape[1] == 1
            kernel = weight.permute(2, 3, 0, 1) if depthwise else weight.permute(2, 3, 1, 0)
            published[f"{convolution}/{'depthwise_kernel' if depthwise else 'kernel'}"] = kernel
        else:
            names = {
                "weight": "gamma",
                "bias": "beta",
                "running_mean": "moving_mean",
                "running_var": "moving_variance",
            }
            theirs = names.get(name.rpartition(".")[2])
            if theirs:
                published[f"{norm}/{theirs}"] = weight
    found = state_dict(published)
    assert found.keys() == {name for name in wanted if not name.endswith("num_batches_tracked")}
    for name, weight in found.items():
        assert torch.equal(weight, wanted[name]), name


def test_a_package_of_another_hash_is_not_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        archive.addfile(tarfile.TarInfo("package/file.txt"), io.BytesIO())
    (tmp_path / "made.tgz").write_bytes(made.getvalue())
    npm = tmp_path / "npm"
    npm.write_text(f"#!/bin/sh\ncp {tmp_path}/made.tgz here.tgz\n")
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    integrity = base64.b64encode(hashlib.sha512(made.getvalue()).digest()).decode()
    with npm_package("made@1.0.0", integrity) as archive:
        assert archive.getnames() == ["package/file.txt"]
    with pytest.raises(ValueError, match=r"made@1\.0\.0: sha512 is .*, expected another"):
        npm_package("made@1.0.0", "another").__enter__()
