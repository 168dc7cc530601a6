"""Weights divided between two processes on the CPU: what a checkpoint gathers, who keeps it, and what comes back."""

import json
from pathlib import Path

from ..forked import run_forked

_TWO = """
import ctypes, json, os, resource, sys
from pathlib import Path
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from swd_video.models.fsdp import load_optimizer_state, full_tensors, full_optimizer_state

LAYERS, SIDE = 8, 1024  # 4 MiB each

def build(mesh):
    torch.manual_seed(0)
    network = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
    for layer in network:
        fully_shard(layer, mesh=mesh)
    return fully_shard(network, mesh=mesh)

def step(network, optimizer):
    for number, weight in enumerate(network.parameters()):
        weight.grad = weight.detach() * (number + 1)
    optimizer.step()

ctypes.CDLL(None).mallopt(-3, 1_000_000)  # M_MMAP_THRESHOLD: what is freed is handed back, so that growth is seen
# Two children: what this process takes at most includes what started it took, before a fork.
for rank in (0, 1):
    if not os.fork():
        break
else:
    sys.exit(any(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(2)))
folder = Path(sys.argv[1])
dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
mesh = init_device_mesh("cpu", (2,))
network = build(mesh)
optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
step(network, optimizer)
full_tensors({"first": next(network.parameters())}, False)  # what gathering itself takes, once
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
weights = full_tensors(dict(network.named_parameters()), rank == 0)
state = full_optimizer_state(optimizer, rank == 0)
grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
shapes = sorted({tuple(value.shape) for kept in state.get("state", {}).values() for value in kept.values()})

shared = [state]
dist.broadcast_object_list(shared, src=0)
other = build(mesh)
again = torch.optim.AdamW(other.parameters(), lr=1e-2)
load_optimizer_state(again, shared[0])
equal = all(
    torch.equal(left.to_local(), right.to_local()) and left.to_local().shape == (SIDE // 2, SIDE)
    for one, two in zip(optimizer.state.values(), again.state.values(), strict=True)
    for left, right in ((one["exp_avg"], two["exp_avg"]), (one["exp_avg_sq"], two["exp_avg_sq"]))
)
report = {"grown_mib": grown, "weights": len(weights), "shapes": shapes, "equal": equal}
(folder / f"{rank}.json").write_text(json.dumps(report))
dist.barrier()
dist.destroy_process_group()
"""


def test_a_checkpoint_gathers_one_weight_at_a_time_and_only_the_writer_keeps_them(tmp_path: Path) -> None:
    result = run_forked(_TWO, tmp_path)
    assert result.returncode == 0, result.stderr
    writer, other = (json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1))
    assert writer["equal"] and other["equal"]
    assert writer["weights"] == 8 and writer["shapes"] == [[], [1024, 1024]]
    assert other["weights"] == 0 and other["shapes"] == []
    # Weights and optimizer are 96 MiB: the writer holds them, the other no more than a few of 4 MiB.
    assert writer["grown_mib"] > 70 and other["grown_mib"] < 20
