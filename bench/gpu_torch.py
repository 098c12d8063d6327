#!/usr/bin/env python3
"""The network of examples/gpt in PyTorch, with PyTorch's own ways to the host.

As it comes, and with what a device lacks room for in host memory: activations
through torch.autograd.graph.save_on_cpu(pin_memory=True), parameters, gradients and
Adam's state through FSDP's CPUOffloadPolicy(pin_memory=True), whose optimiser works
on the CPU. float32 throughout, no TF32. Prints medians of the steps from the third
on and the device memory each needed; takes the options of gpt_cuda that shape the
network. bench/gpu.sh runs it where there is torch.
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import time

import torch
from torch import nn
from torch.nn import functional


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm_1 = nn.LayerNorm(width, bias=False)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.project = nn.Linear(width, width, bias=False)
        self.norm_2 = nn.LayerNorm(width, bias=False)
        self.up = nn.Linear(width, 4 * width, bias=False)
        self.down = nn.Linear(4 * width, width, bias=False)

    def forward(self, x):
        batch, context, width = x.shape
        q, k, v = (t.view(batch, context, self.heads, -1).transpose(1, 2)
                   for t in self.qkv(self.norm_1(x)).split(width, dim=2))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.project(mixed.transpose(1, 2).reshape(batch, context, width))
        return x + self.down(functional.gelu(self.up(self.norm_2(x)), approximate="tanh"))


class Network(nn.Module):
    def __init__(self, a):
        super().__init__()
        self.tokens = nn.Embedding(256, a.width)
        self.positions = nn.Embedding(a.context, a.width)
        self.blocks = nn.ModuleList(Block(a.width, a.heads) for _ in range(a.layers))
        self.norm = nn.LayerNorm(a.width, bias=False)
        self.head = nn.Linear(a.width, 256, bias=False)

    def forward(self, inputs):
        x = self.tokens(inputs) + self.positions(torch.arange(inputs.shape[1], device=inputs.device))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


def offloaded(network):
    """Its parameters in host memory, brought to the device a block at a time."""
    from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
    for block in network.blocks:
        fully_shard(block, offload_policy=CPUOffloadPolicy(pin_memory=True))
    return fully_shard(network, offload_policy=CPUOffloadPolicy(pin_memory=True))


def train(a, text, offload):
    torch.manual_seed(a.seed)
    network = Network(a)
    network = offloaded(network) if offload else network.to("cuda")
    optimiser = torch.optim.Adam(network.parameters(), lr=a.rate, betas=(0.9, 0.95), fused=True)
    times = []
    torch.cuda.reset_peak_memory_stats()
    for step in range(a.steps):
        start = time.monotonic()
        at = torch.randint(len(text) - a.context - 1, (a.batch,))
        rows = torch.stack([text[i:i + a.context + 1] for i in at]).to("cuda")
        saving = torch.autograd.graph.save_on_cpu(pin_memory=True) if offload else contextlib.nullcontext()
        with saving:
            logits = network(rows[:, :-1])
            loss = functional.cross_entropy(logits.reshape(-1, 256), rows[:, 1:].reshape(-1))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        value = loss.item()
        torch.cuda.synchronize()
        times.append(time.monotonic() - start)
        print(f"step {step + 1}  loss {value:.4f}  {times[-1]:.3f} s", file=sys.stderr)
    return {"seconds": statistics.median(times[2:] or times), "peak_bytes": torch.cuda.max_memory_allocated()}


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, value in (("layers", 8), ("width", 896), ("heads", 14), ("context", 256), ("batch", 3), ("steps", 8),
                        ("seed", 1)):
        arguments.add_argument("--" + name, type=int, default=value)
    arguments.add_argument("--rate", type=float, default=5e-4)
    arguments.add_argument("--data", required=True)
    arguments.add_argument("--json", required=True)
    arguments.add_argument("--own-products", action="store_true", help="has no meaning here")
    a = arguments.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no device")
    with open(a.data, "rb") as f:
        text = torch.frombuffer(bytearray(f.read()), dtype=torch.uint8).long()
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", "29511")
    torch.distributed.init_process_group("cpu:gloo,cuda:nccl", rank=0, world_size=1)
    result = {"version": torch.__version__}
    for kind in ("resident", "offloaded"):
        torch.cuda.empty_cache()
        try:
            result[kind] = train(a, text, kind == "offloaded")
            print(f"PyTorch {torch.__version__} {kind}: {result[kind]['seconds']:.4f} s a step, "
                  f"{result[kind]['peak_bytes'] >> 20} MiB of the device")
        except (RuntimeError, ImportError, TypeError, ValueError) as error:
            result[kind] = {"not_run": str(error).splitlines()[0]}
            print(f"PyTorch {kind}: not run: {result[kind]['not_run']}")
    torch.distributed.destroy_process_group()
    with open(a.json, "w", encoding="ascii") as f:
        json.dump(result, f)


if __name__ == "__main__":
    main()
