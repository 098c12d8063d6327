/* pools.c - stream-ordered allocation on simulated devices: memory is taken when
 * it is asked for and can be used in the stream's order; it is given back when the
 * stream reaches its freeing. May call memory.c, streams.c. */
#include "stream.h"

int pool_alloc(struct context *context, uint64_t bytes, uint64_t handle, uint64_t *address)
{
    struct stream *stream;
    struct area *area;
    engine_lock();
    int r = engine.settings.pools ? stream_find_locked(context, handle, &stream) : SIM_ENOTSUP;
    if (!r)
        r = stream->capture ? capture_refuse_locked(stream)
                            : memory_add_locked(context->device, bytes, true, &area);
    if (!r) {
        *address = area->base;
        r = stream_put_locked(stream, &(struct work){.kind = SIM_ALLOC, .area = area->base});
        if (r)
            memory_remove_locked(area);
    }
    engine_unlock();
    return r;
}

static int free_locked(struct stream *stream, struct area *area, uint64_t address)
{
    if (!area || area->base != address || area->kind != AREA_MEMORY || area->freed) {
        misuse_locked("memory at %#llx is freed in a stream and is not an allocation, or no more",
                      (unsigned long long)address);
        return SIM_EINVAL;
    }
    int r = stream_put_locked(stream, &(struct work){.kind = SIM_FREE, .area = address});
    area->freed = !r;
    return r;
}

int pool_free(struct context *context, uint64_t address, uint64_t handle)
{
    struct stream *stream;
    engine_lock();
    int r = engine.settings.pools ? stream_find_locked(context, handle, &stream) : SIM_ENOTSUP;
    if (!r)
        r = free_locked(stream, area_at_locked(address), address);
    engine_unlock();
    return r;
}
