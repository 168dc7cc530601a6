import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.utils.data import DataLoader

from swd_video.core.grid import LatentSize
from swd_video.data.latent_cache import (
    CacheError,
    CacheHeader,
    LatentCache,
    SkippedClip,
    collate,
    damaged_shards,
    file_digest,
    is_finished,
    read_index,
    read_shard_header,
)
from swd_video.data.latent_cache_writing import LatentCacheWriter

SMALL, LARGE = LatentSize(2, 4, 4), LatentSize(3, 6, 8)
CAPTIONS = ["a fox", "an owl 🦉", "a fox", "rain", "a fox"]
HEADER = CacheHeader(
    model="tiny",
    encoders="e",
    clips_digest="d",
    num_clips=5,
    num_captions=3,
    fps=12.0,
    grids=(SMALL, LARGE),
)


def latents_of(clip: int, grid: LatentSize) -> torch.Tensor:
    generator = torch.Generator().manual_seed(clip)
    return torch.randn(4, *grid.as_tuple(), generator=generator)


def embeds_of(caption: str) -> torch.Tensor:
    return torch.randn(6, 16, generator=torch.Generator().manual_seed(len(caption)))


def write_shard(writer: LatentCacheWriter, shard: str) -> None:
    """Clip 3 cannot be read."""
    readable = [clip for clip in writer.latent_shards[shard] if clip != 3]
    skipped = (
        [SkippedClip(key="3", path="rain.mp4", reason="is empty.")]
        if 3 in writer.latent_shards[shard]
        else []
    )
    latents = {g: torch.stack([latents_of(c, g) for c in readable]) for g in (SMALL, LARGE) if readable}
    writer.write_latents(shard, {str(clip): CAPTIONS[clip] for clip in readable}, latents, skipped)


def write_prompts(writer: LatentCacheWriter, shard: str) -> None:
    captions = [list(dict.fromkeys(CAPTIONS))[index] for index in writer.prompt_shards[shard]]
    writer.write_prompts(shard, captions, torch.stack([embeds_of(caption) for caption in captions]))


def write_missing(writer: LatentCacheWriter) -> None:
    for shard in writer.prompt_shards:
        if not writer.has(shard):
            write_prompts(writer, shard)
    for shard in writer.latent_shards:
        if not writer.has(shard):
            write_shard(writer, shard)
    writer.finish()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("shard_size", [1, 2, 64])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_written_is_read(shard_size: int, dtype: str, tmp_path: Path) -> None:
    write_missing(LatentCacheWriter(tmp_path, replace(HEADER, dtype=dtype), shard_size))
    cache = LatentCache(tmp_path)
    narrow = getattr(torch, dtype)
    assert len(cache) == 4
    assert cache.grids == (SMALL, LARGE)
    for position, clip in enumerate([0, 1, 2, 4]):
        sample = cache.get(position)
        assert (sample["key"], sample["caption"]) == (str(clip), CAPTIONS[clip])
        assert torch.equal(sample["prompt_embeds"], embeds_of(CAPTIONS[clip]).to(narrow))
        for grid in (SMALL, LARGE):
            assert torch.equal(sample["latents"][grid], latents_of(clip, grid).to(narrow))
    assert cache.index["skipped"] == [{"key": "3", "path": "rain.mp4", "reason": "is empty."}]
    assert (cache.index["samples"], cache.index["num_clips"], cache.index["num_captions"]) == (4, 5, 3)
    assert cache.index["grids"] == ["2x4x4", "3x6x8"]
    with pytest.raises(IndexError):
        cache.get(4)


def test_batches(tmp_path: Path) -> None:
    write_missing(LatentCacheWriter(tmp_path, HEADER, 2))
    cache = LatentCache(tmp_path)
    batch = cache.batch([3, 0, 3])
    assert batch.captions == ["a fox"] * 3
    assert batch.latents[LARGE].shape == (3, 4, 3, 6, 8)
    assert torch.equal(batch.latents[SMALL][0], latents_of(4, SMALL).half())
    assert torch.equal(batch.prompt_embeds[1], embeds_of("a fox").half())
    assert list(cache.batch([0], grids=[LARGE]).latents) == [LARGE]
    with pytest.raises(CacheError, match="has no grid 9x9x9; it has 2x4x4, 3x6x8"):
        cache.batch([0], grids=[LatentSize(9, 9, 9)])
    loaded = next(iter(DataLoader(cache, batch_size=4, collate_fn=collate)))
    assert torch.equal(loaded.latents[LARGE], cache.batch(range(4)).latents[LARGE])


@pytest.mark.parametrize("stop_after", range(7))
def test_going_on_ends_with_the_same_bytes(stop_after: int, tmp_path: Path) -> None:
    write_missing(LatentCacheWriter(tmp_path / "whole", HEADER, 2))
    stopped = LatentCacheWriter(tmp_path / "stopped", HEADER, 2)
    steps = [lambda s=s: write_prompts(stopped, s) for s in stopped.prompt_shards]
    latent_shards = list(stopped.latent_shards)
    steps += [lambda s=latent_shards[n]: write_shard(stopped, s) for n in (2, 0, 1)]
    for step in [*steps, stopped.finish][:stop_after]:
        step()
    if stop_after < 6:
        with pytest.raises(CacheError, match="not finished"):
            LatentCache(tmp_path / "stopped")
    # The folder of the model has been moved meanwhile.
    write_missing(LatentCacheWriter(tmp_path / "stopped", replace(HEADER, model="moved/tiny"), 2))
    assert contents(tmp_path / "stopped") == contents(tmp_path / "whole")


def test_hidden_files_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / ".index.json.0123456789abcdef.draft").write_text("{")
    LatentCacheWriter(tmp_path, HEADER)
    assert read_index(tmp_path)["complete"] is False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": "other", "encoders": ""}, r"another model \(there 'tiny', now 'other'\)"),
        ({"encoders": "retrained"}, "of another VAE, text encoder or adapter"),
        ({"clips_digest": "x"}, "of other clips or captions"),
        ({"grids": (LARGE,)}, "another grids"),
        ({"dtype": "bfloat16"}, "another dtype"),
    ],
)
def test_another_cache_is_not_continued(change: dict, message: str, tmp_path: Path) -> None:
    LatentCacheWriter(tmp_path, HEADER)
    before = contents(tmp_path)
    with pytest.raises(CacheError, match=message):
        LatentCacheWriter(tmp_path, replace(HEADER, **change))
    with pytest.raises(CacheError, match="another shard_size"):
        LatentCacheWriter(tmp_path, HEADER, 7)
    assert contents(tmp_path) == before


def test_folders_that_are_no_cache(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("dear")
    with pytest.raises(CacheError, match=r"holds diary.txt but no index\.json"):
        LatentCacheWriter(tmp_path, HEADER)
    with pytest.raises(CacheError, match="no cache of latents here"):
        LatentCache(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 99}')
    with pytest.raises(CacheError, match="not a cache of format 1"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(CacheError, match=r"cannot be read.*encode again"):
        read_index(tmp_path)
    (tmp_path / "index.json").write_text('{"format": 1, "complete": true, "model": 3}')
    with pytest.raises(CacheError, match="model: got 3; the file was changed"):
        read_index(tmp_path)


def test_damage_is_named(tmp_path: Path) -> None:
    write_missing(LatentCacheWriter(tmp_path, HEADER, 2))
    shard = tmp_path / "latents-00001.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-10])
    with pytest.raises(CacheError, match=r"latents-00001\.safetensors: cannot be read"):
        LatentCache(tmp_path)
    shard.unlink()
    with pytest.raises(CacheError, match=r"latents-00001\.safetensors: cannot be read"):
        LatentCache(tmp_path)
    shard.write_bytes(whole)
    index = json.loads((tmp_path / "index.json").read_text())
    (tmp_path / "index.json").write_text(json.dumps({**index, "samples": 9}))
    with pytest.raises(CacheError, match="counts 9 samples, the shards hold 4"):
        LatentCache(tmp_path)


def test_what_is_finished_is_there(tmp_path: Path) -> None:
    whole, other = tmp_path / "whole", tmp_path / "other"
    write_missing(LatentCacheWriter(whole, HEADER, 2))
    write_missing(LatentCacheWriter(other, replace(HEADER, dtype="bfloat16"), 2))
    before, index = contents(whole), read_index(whole)
    assert is_finished(whole) and not damaged_shards(whole, index, thorough=True)
    assert not is_finished(tmp_path / "nowhere")
    first, second = whole / "latents-00000.safetensors", whole / "prompts-00001.safetensors"
    for damage in (
        first.unlink,
        lambda: first.write_bytes(before[first.name][:-10]),
        lambda: first.write_bytes(b""),
        lambda: first.write_bytes((other / first.name).read_bytes()),
    ):
        damage()
        second.write_bytes(before[second.name] + b"more")
        assert damaged_shards(whole, index) == [first.name, second.name]
        assert not is_finished(whole)
        with pytest.raises(
            CacheError, match="the command that made the cache again: it makes what is missing"
        ):
            LatentCache(whole)
        writer = LatentCacheWriter(whole, HEADER, 2)
        writer.take_back(damaged_shards(whole, index))
        assert not read_index(whole)["complete"]
        write_missing(writer)
        assert contents(whole) == before
    flipped = bytearray(before[first.name])
    flipped[-1] ^= 1
    first.write_bytes(flipped)
    assert is_finished(whole) and damaged_shards(whole, index, thorough=True) == [first.name]


def test_the_digest_follows_what_the_cache_holds(tmp_path: Path) -> None:
    digests = []
    for name, clip in (("a", 0), ("b", 0), ("c", 9)):
        writer = LatentCacheWriter(tmp_path / name, replace(HEADER, num_clips=1, num_captions=1))
        writer.write_prompts("prompts-00000.safetensors", ["a fox"], embeds_of("a fox")[None])
        writer.write_latents(
            "latents-00000.safetensors",
            {"0": "a fox"},
            {grid: latents_of(clip, grid)[None] for grid in (SMALL, LARGE)},
        )
        digests.append(writer.finish()["digest"])
    assert digests[0] == digests[1] != digests[2]
    # A shard from before shards had a digest of their own.
    path = tmp_path / "a" / "latents-00000.safetensors"
    header = read_shard_header(path)
    expected = header.pop("digest")
    tensors = load_file(path)
    save_file(tensors, path, {"swd_video": json.dumps(header)})
    assert is_finished(tmp_path / "a") and file_digest(path) == expected
    assert (
        LatentCacheWriter(tmp_path / "a", replace(HEADER, num_clips=1, num_captions=1)).finish()["digest"]
        == digests[0]
    )


def test_work_grows_with_the_shards(tmp_path: Path) -> None:
    """A hundred thousand shards: looking at each is no work, where it was a walk over all of them."""
    writer = LatentCacheWriter(tmp_path, replace(HEADER, num_clips=100_000, num_captions=100_000), 1)
    started = time.process_time()
    assert sum(map(len, writer.latent_shards.values())) == len(writer.latent_shards) == 100_000
    assert time.process_time() - started < 1


def test_numbers_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    writer = LatentCacheWriter(tmp_path, replace(HEADER, num_clips=1, num_captions=1))
    with pytest.raises(
        CacheError, match="prompt embeds of 'x': infinite or nan in float16; use dtype bfloat16"
    ):
        writer.write_prompts("prompts-00000.safetensors", ["x"], torch.full((1, 6, 16), 1e5))
    latents = {grid: latents_of(0, grid)[None] for grid in (SMALL, LARGE)}
    latents[LARGE][0, 0, 0, 0, 0] = float("nan")
    with pytest.raises(CacheError, match="latents on 3x6x8: infinite or nan in float16; the model's weights"):
        writer.write_latents("latents-00000.safetensors", {"0": "x"}, latents)
    assert [path.name for path in tmp_path.iterdir()] == ["index.json"]
    with pytest.raises(CacheError, match="dtype: got 'int8'"):
        LatentCacheWriter(tmp_path, replace(HEADER, dtype="int8"))
    with pytest.raises(CacheError, match="shard_size: got 0"):
        LatentCacheWriter(tmp_path, HEADER, 0)
