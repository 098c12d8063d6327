/* cuda_program.c - the simulated CUDA driver: what programs call and terrace does not. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "area.h"
#include "cuda_table.h"

enum { PITCH = 512 };

CUresult cuMemAllocPitch_v2(CUdeviceptr *address, size_t *pitch, size_t width, size_t height, unsigned element)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    size_t row = (width + PITCH - 1) / PITCH * PITCH;
    uint64_t at;
    if (!address || !pitch || !width || !height || (element != 4 && element != 8 && element != 16))
        return MISUSED("no bytes, no place for a result, or elements that are none of 4, 8 and 16 bytes");
    int r = memory_alloc(context_current(), row * height, &at);
    if (!r) {
        *address = at;
        *pitch = row;
    }
    return entry_leave(r);
}

CUresult cuMemAllocHost_v2(void **p, size_t bytes)
{
    ENTER(ENTRY_CONTEXT | ENTRY_UNSAFE);
    return p ? entry_leave(host_alloc(context_current(), bytes, p)) : MISUSED("no place for the pointer");
}

/* ---- the one pool of each device ------------------------------------------------ */

static CUmemoryPool pool_of(int device)
{
    return (CUmemoryPool)(uintptr_t)(0x1000 + device);
}

CUresult cuDeviceGetDefaultMemPool(CUmemoryPool *pool, CUdevice device)
{
    ENTER(0);
    struct device *found;
    int r = !pool ? SIM_EINVAL : sim_get("POOLS") ? devices_get(device, &found) : SIM_ENOTSUP;
    if (!r)
        *pool = pool_of(device);
    return entry_leave(r);
}

CUresult cuMemAllocFromPoolAsync(CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream)
{
    ENTER(ENTRY_CONTEXT);
    uint64_t at;
    if (!address || !bytes || pool != pool_of(context_current()->device->id))
        return MISUSED("no bytes, no place for the address, or no pool of this device's");
    int r = pool_alloc(context_current(), bytes, cuda_stream(stream), &at);
    if (!r)
        *address = at;
    return entry_leave(r);
}

/* ---- asking, sharing, launching ---------------------------------------------------- */

CUresult cuPointerGetAttributes(unsigned n, CUpointer_attribute *attributes, void **data, CUdeviceptr address)
{
    ENTER(0);
    if (!attributes || !data)
        return MISUSED("no attributes, or no places for them");
    for (unsigned i = 0; i < n; i++)
        if (cuPointerGetAttribute(data[i], attributes[i], address))
            *(int *)data[i] = 0; /* of memory that the driver does not know, say */
    return entry_leave(SIM_OK);
}

/* Memory that was allocated at once; what was mapped has handles of its own for that. */
CUresult cuIpcGetMemHandle(CUipcMemHandle *handle, CUdeviceptr address)
{
    ENTER(ENTRY_CONTEXT);
    if (!handle)
        return MISUSED("no place for the handle");
    engine_lock();
    const struct area *area = area_at_locked(address);
    bool can = area && (area->kind == AREA_MEMORY || (area->kind == AREA_RESERVED && engine.settings.ipc_mapped));
    if (can) {
        memset(handle, 0, sizeof *handle);
        memcpy(handle, &(uint64_t[]){(uint64_t)getpid(), area->base}, 2 * sizeof(uint64_t));
    }
    engine_unlock();
    return entry_leave(can ? SIM_OK : SIM_EINVAL);
}

struct launch {
    void (*kernel)(void *);
    char argument[];
};

static void run(void *arg)
{
    struct launch *launch = arg;
    launch->kernel(launch->argument);
    free(launch);
}

CUresult cuLaunchKernel(CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                        unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **arguments,
                        void **extra)
{
    ENTER(ENTRY_CONTEXT);
    const struct sim_function *f = (const struct sim_function *)function;
    (void)shared;
    if (!f || !arguments || extra || !grid_x || !grid_y || !grid_z || !block_x || !block_y || !block_z)
        return MISUSED("no function, no arguments, or an empty grid");
    struct launch *launch = malloc(sizeof *launch + f->bytes);
    if (!launch)
        return entry_leave(SIM_ENOMEM);
    launch->kernel = f->kernel;
    memcpy(launch->argument, arguments[0], f->bytes);
    int r = call_put(context_current(), cuda_stream(stream), SIM_KERNEL, run, launch, 0);
    if (r)
        free(launch);
    return entry_leave(r);
}

CUresult cuFuncGetParamInfo(CUfunction function, size_t i, size_t *offset, size_t *bytes)
{
    ENTER(ENTRY_CONTEXT);
    if (!function || !offset)
        return MISUSED("no function, or no place for the offset");
    if (i > 0)
        return entry_leave(SIM_EINVAL);
    *offset = 0;
    if (bytes)
        *bytes = ((const struct sim_function *)function)->bytes;
    return entry_leave(SIM_OK);
}

/* The tables by which NVIDIA's libraries use the driver have no documentation. */
CUresult cuGetExportTable(const void **table, const CUuuid *id)
{
    static struct entry entry = {.name = __func__};
    int refused = entry_enter(&entry, ENTRY_ANY);
    (void)id;
    if (refused)
        return refused;
    if (table)
        *table = NULL;
    return entry_leave(SIM_ENOTFOUND);
}
