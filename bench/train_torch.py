#!/usr/bin/env python3
"""train_torch.py - a network that PyTorch trains on the CPU, as anyone would write it.

usage: bench/train_torch.py MIB STEPS [TIMES]

MIB is what parameters, gradients and Adam's two moments take together. Writes the loss
of each step to the last bit, and the seconds each took into the file TIMES.
"""
import sys
import time

import torch

WIDTH, BATCH, CLASSES = 1024, 4, 64


def main():
    mib, steps = int(sys.argv[1]), int(sys.argv[2])
    torch.manual_seed(1)
    torch.set_num_threads(2)
    layers = max(1, (mib << 20) // (16 * WIDTH * WIDTH))
    blocks = []
    for _ in range(layers):
        blocks += [torch.nn.Linear(WIDTH, WIDTH), torch.nn.ReLU()]
        torch.nn.init.kaiming_normal_(blocks[-2].weight, nonlinearity="relu")
    net = torch.nn.Sequential(*blocks, torch.nn.Linear(WIDTH, CLASSES))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    x, y = torch.randn(BATCH, WIDTH), torch.randint(CLASSES, (BATCH,))
    times = []
    for step in range(steps):
        began = time.monotonic()
        optimizer.zero_grad(set_to_none=False)
        loss = torch.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        times.append(time.monotonic() - began)
        print(f"step {step}: loss {loss.item().hex()}", flush=True)
    if len(sys.argv) > 3:
        with open(sys.argv[3], "w", encoding="ascii") as f:
            f.write(" ".join(f"{t:.3f}" for t in times))


if __name__ == "__main__":
    main()
