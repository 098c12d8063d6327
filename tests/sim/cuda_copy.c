/* cuda_copy.c - the simulated CUDA driver: copies and fills. */
#include "cuda_table.h"

/* One copy; those that wait go through the default stream. */
static int copy(uint64_t to, int to_side, uint64_t from, int from_side, size_t bytes, CUstream stream,
                bool wait)
{
    return entry_leave(copy_put(context_current(), cuda_stream(stream),
                                &(struct copy){.to = to, .from = from, .bytes = bytes, .to_side = to_side,
                                               .from_side = from_side, .wait = wait}));
}

static uint64_t number(const void *p)
{
    return (uintptr_t)p;
}

CUresult cuMemcpy(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return copy(to, SIDE_ANY, from, SIDE_ANY, bytes, NULL, true);
}

CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return copy(to, SIDE_DEVICE, number(from), SIDE_HOST, bytes, NULL, true);
}

CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return copy(number(to), SIDE_HOST, from, SIDE_DEVICE, bytes, NULL, true);
}

/* Inside of devices the call does not wait for the copy. */
CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return copy(to, SIDE_DEVICE, from, SIDE_DEVICE, bytes, NULL, false);
}

CUresult cuMemcpyAsync(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return copy(to, SIDE_ANY, from, SIDE_ANY, bytes, stream, false);
}

CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t bytes, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return copy(to, SIDE_DEVICE, number(from), SIDE_HOST, bytes, stream, false);
}

CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return copy(number(to), SIDE_HOST, from, SIDE_DEVICE, bytes, stream, false);
}

CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return copy(to, SIDE_DEVICE, from, SIDE_DEVICE, bytes, stream, false);
}

static bool is_of(CUdeviceptr address, const struct context *context)
{
    int device;
    return memory_kind(address, &device) == MEMORY_DEVICE && device == context->device->id;
}

CUresult cuMemcpyPeerAsync(CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,
                           size_t bytes, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    const struct context *of_to = context_of(to_context), *of_from = context_of(from_context);
    if (!of_to || !of_from)
        return entry_leave(SIM_ENOCONTEXT);
    if (!is_of(to, of_to) || !is_of(from, of_from))
        return MISUSED("an address is not of the context's device");
    return copy(to, SIDE_DEVICE, from, SIDE_DEVICE, bytes, stream, false);
}

/* ---- fills --------------------------------------------------------------------------- */

static int fill(CUdeviceptr to, unsigned value, unsigned width, size_t n, CUstream stream)
{
    if (n > SIZE_MAX / 4)
        return entry_leave(SIM_EINVAL);
    return entry_leave(fill_put(context_current(), cuda_stream(stream), to, value, width, n, false));
}

CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t n)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return fill(to, value, 1, n, NULL);
}

CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t n)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return fill(to, value, 4, n, NULL);
}

CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t n, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return fill(to, value, 1, n, stream);
}

CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t n, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    return fill(to, value, 4, n, stream);
}
