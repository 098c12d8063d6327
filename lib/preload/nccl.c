/* nccl.c - ncclCommRegister, in place of NCCL's.
 *
 * Memory that is registered with a communicator is used by the network and by other
 * devices behind the driver's back: a block of terrace's stays where it is from then on.
 *
 * May call: cuda_reach.c, cuda_memory.c. */
#include <dlfcn.h>

#include "cuda_hooks.h"

typedef int register_fn(void *, void *, size_t, void **);

enum { NCCL_INVALID_USAGE = 5 };

/* NCCL's own, where the program has it. */
static register_fn *own(void)
{
    static _Atomic(register_fn *) found;
    void *library = found ? NULL : dlopen("libnccl.so.2", RTLD_LAZY | RTLD_NOLOAD);
    if (library)
        found = (register_fn *)(uintptr_t)reach_dlsym(library, "ncclCommRegister");
    return found;
}

void *nccl_own(void)
{
    return (void *)(uintptr_t)own();
}

HOOK int ncclCommRegister(void *communicator, void *at, size_t bytes, void **handle)
{
    register_fn *fn = own();
    struct memory_range range;
    bool ours = memory_range((uintptr_t)at, &range);
    if (!fn)
        return NCCL_INVALID_USAGE;
    if (ours && !memory_keep((uintptr_t)at, true))
        note("%zu bytes on CUDA device %d are registered with NCCL, and may move", range.bytes, range.device);
    return fn(communicator, at, bytes, handle);
}
