"""What this machine has, found out by trying it."""

import os
import platform
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import swd_video
from swd_video.environment import WAITING_VARIABLES
from swd_video.models.devices import cpu_name
from swd_video.plain_text import describe_error

_GIB = 2**30
_PACKAGES = (
    "torch",
    "diffusers",
    "transformers",
    "accelerate",
    "peft",
    "av",
    "decord2",
    "decord",
    "xformers",
)
_NO_LIMIT_BYTES = 2**60  # control groups write a number like this for "no limit"


def examine(disk: Path = Path()) -> dict[str, Any]:
    """Try everything out and return the findings as plain values.

    A part that is missing or broken is a finding with a reason, never an exception. `ready` tells whether
    rendering can work: torch runs, some attention runs, and H.264 can be written and read back.
    """
    torch_found = _guarded(_examine_torch)
    video = _guarded(_examine_video)
    found: dict[str, Any] = {
        "swd_video": swd_video.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: _version(name) for name in _PACKAGES},
        "torch": torch_found.pop("torch", torch_found),
        "devices": torch_found.pop("devices", []),
        "attention": torch_found.pop("attention", []),
        "xformers": _guarded(_examine_xformers),
        "decoders": video.get("decoders", []),
        "encoders": video.get(
            "encoders", [{"name": "libx264", "works": False, "detail": video.get("error", "")}]
        ),
        "threads": _examine_threads(),
        "memory": _guarded(_examine_memory),
        "disk": _guarded(lambda: _examine_disk(disk)),
        "models": _guarded(_examine_models),
    }
    found["ready"] = (
        found["torch"].get("works", False)
        and any(entry["works"] for entry in found["attention"])
        and any(entry["works"] for entry in found["encoders"])
        and any(entry["works"] for entry in found["decoders"])
    )
    return found


def describe(found: dict[str, Any]) -> str:
    """Return the findings of `examine` as text for people."""
    lines = [
        f"swd-video {found['swd_video']}, Python {found['python']}, {found['platform']}",
        "packages   "
        + ", ".join(f"{name} {number or 'absent'}" for name, number in found["packages"].items()),
        f"torch      {_verdict(found['torch'])}",
    ]
    lines += [
        f"device     {device['name']}: {device['detail']}, {_sizes(device)}" for device in found["devices"]
    ]
    for title, key in (("attention", "attention"), ("decoder", "decoders"), ("encoder", "encoders")):
        lines += [f"{title:<10} {entry['name']}: {_verdict(entry)}" for entry in found[key]]
    models = found["models"]
    lines += [
        f"xformers   {_verdict(found['xformers'])}",
        f"threads    {found['threads']['detail']}",
        f"memory     {_sizes(found['memory'])}",
        f"disk       {found['disk'].get('path', '')}: {_sizes(found['disk'])}",
        f"models     {', '.join(models['shipped']) or 'none shipped' if 'shipped' in models else models['error']}",
        "ready to render" if found["ready"] else "NOT ready to render: see what failed above",
    ]
    return "\n".join(lines)


def _examine_torch() -> dict[str, Any]:
    import torch

    from swd_video.models.attention import choose_attention_backend, probe_attention_backends

    devices: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            free, total = torch.cuda.mem_get_info(index)
            detail = torch.cuda.get_device_name(index)
            devices.append({"name": f"cuda:{index}", "detail": detail} | _gib(free, total))
    if torch.backends.mps.is_available():
        devices.append({"name": "mps", "detail": "Apple GPU", "free_gib": None, "total_gib": None})
    detail = f"{cpu_name()}, {os.cpu_count()} logical cores, {torch.get_num_threads()} threads"
    devices.append({"name": "cpu", "detail": detail} | _examine_memory())

    attention = []
    for device in devices:
        dtype = torch.bfloat16 if device["name"].startswith("cuda") else torch.float32
        chosen = choose_attention_backend(device["name"], dtype)
        for probe in probe_attention_backends(device["name"], dtype):
            attention.append(
                {
                    "name": f"{probe.backend} on {device['name']}",
                    "backend": probe.backend,
                    "device": device["name"],
                    "works": probe.works,
                    "chosen": probe.backend == chosen,
                    "detail": probe.detail + (" (chosen)" if probe.backend == chosen else ""),
                }
            )
    product = torch.ones(2, 2) @ torch.ones(2, 2)
    cuda = f"built for CUDA {torch.version.cuda}" if torch.version.cuda else "built without CUDA"
    return {
        "torch": {
            "version": torch.__version__,
            "cuda": torch.version.cuda,
            "works": bool((product == 2).all()),
            "detail": f"{torch.__version__}, {cuda}",
        },
        "devices": devices,
        "attention": attention,
    }


def _examine_xformers() -> dict[str, Any]:
    """Whether xformers' attention runs, called directly on the best device there is."""
    installed = _version("xformers")
    if installed is None:
        return {"installed": False, "version": None, "works": False, "detail": "not installed (optional)"}
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    found: dict[str, Any] = {"installed": True, "version": installed, "works": False}
    try:
        from xformers.ops import memory_efficient_attention

        query = torch.zeros(1, 16, 2, 32, device=device, dtype=torch.float16 if device == "cuda" else None)
        memory_efficient_attention(query, query, query)
    except Exception as error:  # an installation can break in any way; which one is the finding
        return found | {"detail": f"{installed} does not run on {device}: {describe_error(error)}"}
    return found | {"works": True, "detail": f"{installed} ran on {device}"}


def _examine_video() -> dict[str, Any]:
    """Write a clip with every encoder, and read it with every decoder."""
    import numpy as np

    from swd_video.data.video import probe_video, read_video, write_preview, write_video

    count, height, width, fps = 8, 48, 64, 12.0
    ramp = np.linspace(0, 255, count * height * width * 3).reshape(count, height, width, 3).astype(np.uint8)

    with tempfile.TemporaryDirectory(prefix="swd-video-doctor-") as folder:
        clip, preview = Path(folder) / "clip.mp4", Path(folder) / "clip.webp"

        def encode_clip() -> str:
            write_video(clip, ramp, fps)
            info = probe_video(clip)
            return f"wrote {info.frames} frames of {info.codec}"

        def encode_preview() -> str:
            write_preview(preview, ramp, fps)
            return f"wrote {probe_video(preview).frames} frames of animated WebP"

        def decode(decoder: Any) -> str:
            frames, _ = read_video(clip, decoder=decoder)
            if frames.shape != ramp.shape or np.abs(frames.astype(int) - ramp).mean() > 8:
                raise RuntimeError(f"wrong pictures: got {frames.shape}, expected {ramp.shape}")
            return f"read {len(frames)} frames back"

        return {
            "encoders": [_attempt("libx264", encode_clip), _attempt("webp", encode_preview)],
            "decoders": [
                _attempt("pyav", lambda: decode("pyav")),
                _attempt("decord", lambda: decode("decord")),
            ],
        }


def _examine_threads() -> dict[str, Any]:
    settings = {
        name: os.environ[name] for name in (*WAITING_VARIABLES, "OMP_NUM_THREADS") if name in os.environ
    }
    shown = ", ".join(f"{name}={value}" for name, value in settings.items()) or "OpenMP's defaults"
    return {"settings": settings, "detail": shown}


def _examine_memory() -> dict[str, Any]:
    """Free and total main memory; a control group's limit counts where it is tighter."""
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        rows = (line.split() for line in meminfo.read_text().splitlines())
        sizes = {row[0].rstrip(":"): int(row[1]) * 1024 for row in rows}
        free, total = sizes["MemAvailable"], sizes["MemTotal"]
        limit, used = _cgroup("memory.max"), _cgroup("memory.current")
        if limit is not None and used is not None and limit < min(total, _NO_LIMIT_BYTES):
            free, total = min(free, limit - used), limit
        return _gib(free, total)
    if not hasattr(os, "sysconf"):
        return {"free_gib": None, "total_gib": None}
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"free_gib": None, "total_gib": round(total / _GIB, 1)}


def _examine_disk(path: Path) -> dict[str, Any]:
    usage = shutil.disk_usage(path)
    return {"path": str(path.resolve())} | _gib(usage.free, usage.total)


def _examine_models() -> dict[str, Any]:
    from swd_video.models.loading import shipped_models

    return {"shipped": shipped_models()}


def _attempt(name: str, action: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"name": name, "works": True, "detail": action()}
    except Exception as error:  # what is missing or broken is a finding, not an end
        return {"name": name, "works": False, "detail": describe_error(error)}


def _guarded(examination: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    try:
        return examination()
    except Exception as error:  # as above
        return {"works": False, "error": describe_error(error), "detail": describe_error(error)}


def _cgroup(name: str) -> int | None:
    path = Path("/sys/fs/cgroup") / name
    text = path.read_text().strip() if path.exists() else "max"
    return int(text) if text.isdigit() else None


def _version(package: str) -> str | None:
    try:
        return package_version(package)
    except PackageNotFoundError:
        return None


def _gib(free: int, total: int) -> dict[str, Any]:
    return {"free_gib": round(free / _GIB, 1), "total_gib": round(total / _GIB, 1)}


def _sizes(found: dict[str, Any]) -> str:
    if "error" in found:
        return str(found["error"])
    free = "unknown" if found["free_gib"] is None else f"{found['free_gib']:g} GiB"
    total = "unknown" if found["total_gib"] is None else f"{found['total_gib']:g} GiB"
    return f"{free} free of {total}"


def _verdict(found: dict[str, Any]) -> str:
    return f"{'ok' if found['works'] else 'does not work'}: {found['detail']}"
