#!/usr/bin/env python3
"""PyTorch's device memory from terrace, beside the program's own tensors.

    TERRACE_LIMIT_CUDA=20G TERRACE_LIMIT_HOST=64G examples/torch_allocator.py [--pool]

Without --pool terrace is the allocator of the whole process; with it of what is
allocated inside one `with` block, and torch's own of everything else. Settings are
terrace's environment variables. LIBTERRACE names the library where it is not installed
(build/lib/libterrace.so). Needs a device, and PyTorch 2.1 or later (--pool: 2.5).
"""
import ctypes
import os
import sys

import torch

LIBRARY = os.environ.get("LIBTERRACE", "libterrace.so.0")


def allocator(alloc):
    """What torch calls for memory; to be made before torch has allocated anything."""
    made = torch.cuda.memory.CUDAPluggableAllocator(LIBRARY, alloc, "terrace_torch_free")
    library = ctypes.CDLL(LIBRARY)
    hooks = made.allocator()
    for setter, name in (
        ("set_init_fn", "terrace_torch_init"),
        ("set_reset_fn", "terrace_torch_reset"),  # torch.cuda.empty_cache()
        ("set_memory_fraction_fn", "terrace_torch_memory_fraction"),
        ("set_base_alloc_fn", "terrace_torch_base_alloc"),
        ("set_record_stream_fn", "terrace_torch_record_stream"),  # Tensor.record_stream()
        ("set_begin_allocate_to_pool", "terrace_torch_begin_allocate_to_pool"),  # CUDA graphs
        ("set_end_allocate_to_pool_fn", "terrace_torch_end_allocate_to_pool"),
        ("set_release_pool", "terrace_torch_release_pool"),
    ):
        if hasattr(hooks, setter):  # not all versions have all of them
            address = ctypes.cast(getattr(library, name), ctypes.c_void_p).value
            getattr(hooks, setter)(address)
    return made


def train(steps=20):
    """A network that is fitted to a polynomial."""
    torch.manual_seed(1)
    net = torch.nn.Sequential(torch.nn.Linear(1, 1024), torch.nn.Tanh(), torch.nn.Linear(1024, 1)).cuda()
    optimizer = torch.optim.Adam(net.parameters())
    x = torch.linspace(-1, 1, 4096, device="cuda").unsqueeze(1)
    for step in range(steps):
        loss = torch.nn.functional.mse_loss(net(x), x**3 - x)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 5 == 0:
            print(f"step {step}: loss {loss.item():.5f}")


def whole_process():
    torch.cuda.memory.change_current_allocator(allocator("terrace_torch_alloc"))
    train()
    try:
        torch.empty(1 << 45, device="cuda")
    except torch.cuda.OutOfMemoryError as error:
        print(f"as ever: {error}")


def one_pool():
    # MemPool looks at the result, frees what torch has cached and asks again.
    pool = torch.cuda.MemPool(allocator("terrace_torch_alloc_or_null").allocator())
    with torch.cuda.use_mem_pool(pool):
        train()


if __name__ == "__main__":
    one_pool() if "--pool" in sys.argv[1:] else whole_process()
