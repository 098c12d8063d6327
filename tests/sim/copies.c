/* copies.c - work that is asked of streams: what a call checks before it puts a
 * copy, a fill, a value or a function into one. What a real driver would find
 * only later, or never, is refused here and a misuse. May call area.c, streams.c. */
#include <stdlib.h>
#include <string.h>

#include "stream.h"

/* ---- copies ----------------------------------------------------------------------- */

static bool is_device_memory(const struct area *area, uint64_t address)
{
    if (!area || area->kind != AREA_RESERVED)
        return area && area->kind == AREA_MEMORY;
    unsigned i = area_map_after(area, address);
    return i < area->n_maps && area->maps[i].physical->place == PLACE_DEVICE;
}

/* Why a side of a copy cannot be what the call says it is; NULL: it can. */
static const char *side_refused(uint64_t address, uint64_t bytes, int side, unsigned access,
                                bool *pageable)
{
    char *at;
    const struct area *area = area_at_locked(address);
    *pageable = !area && side != SIDE_DEVICE;
    if (*pageable)
        return !address                               ? "a null pointer"
               : area_overlapping_locked(address, bytes) ? "memory that is page-locked only in part"
                                                        : NULL;
    if (!area)
        return "no memory of a device";
    if (bytes > area->base + area->bytes - address)
        return "beyond the end of the memory";
    if (area->freed)
        return "memory that was freed";
    if (area->kind == AREA_RESERVED && area_resolve_locked(NULL, true, address, bytes, access, &at))
        return "where nothing is mapped, or without access";
    return side == SIDE_HOST && is_device_memory(area, address) ? "a device's memory as if the host's" : NULL;
}

static int checked_locked(const struct copy *copy, struct work *work)
{
    const char *to = side_refused(copy->to, copy->bytes, copy->to_side, ACCESS_WRITE,
                                  &work->copy.to_pageable);
    const char *from = side_refused(copy->from, copy->bytes, copy->from_side, ACCESS_READ,
                                    &work->copy.from_pageable);
    if (to || from) {
        misuse_locked("copying %llu bytes %s %#llx: %s", (unsigned long long)copy->bytes,
                      to ? "to" : "from", (unsigned long long)(to ? copy->to : copy->from), to ? to : from);
        return SIM_EINVAL;
    }
    bool to_device = is_device_memory(area_at_locked(copy->to), copy->to);
    bool from_device = is_device_memory(area_at_locked(copy->from), copy->from);
    work->copy.direction = to_device ? from_device ? SIM_DTOD : SIM_HTOD
                                     : from_device ? SIM_DTOH : SIM_HTOH;
    return SIM_OK;
}

/* Pageable memory is read before the call returns: a little of it aside, much of
 * it when the stream gets there. What is written to it is there, then. */
static bool waits_locked(const struct copy *copy, struct work *work)
{
    if (copy->wait || work->copy.to_pageable || work->copy.direction == SIM_HTOH)
        return true;
    if (!work->copy.from_pageable)
        return false;
    if (copy->bytes > (uint64_t)engine.settings.staged || !(work->copy.aside = malloc(copy->bytes)))
        return true;
    memcpy(work->copy.aside, (const void *)(uintptr_t)copy->from, copy->bytes);
    return false;
}

int copy_put(struct context *context, uint64_t handle, const struct copy *copy)
{
    struct stream *stream;
    struct work work = {.kind = SIM_COPY,
                        .copy = {.to = copy->to, .from = copy->from, .bytes = copy->bytes}};
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    if (!r && copy->bytes)
        r = checked_locked(copy, &work);
    if (!r && copy->bytes)
        r = waits_locked(copy, &work) ? stream_do_locked(stream, &work) : stream_put_locked(stream, &work);
    engine_unlock();
    return r;
}

int fill_put(struct context *context, uint64_t handle, uint64_t at, uint32_t value, unsigned width,
             uint64_t count, bool wait)
{
    struct stream *stream;
    bool pageable;
    struct work work = {.kind = SIM_FILL,
                        .fill = {.at = at, .bytes = count * width, .value = value, .width = width}};
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    const char *refused = r || !count ? NULL
                          : at % width ? "an address that is not aligned"
                                       : side_refused(at, count * width, SIDE_DEVICE, ACCESS_WRITE, &pageable);
    if (refused) {
        misuse_locked("filling %llu bytes at %#llx: %s", (unsigned long long)work.fill.bytes,
                      (unsigned long long)at, refused);
        r = SIM_EINVAL;
    }
    if (!r && count)
        r = wait ? stream_do_locked(stream, &work) : stream_put_locked(stream, &work);
    engine_unlock();
    return r;
}

/* ---- values and functions ------------------------------------------------------------ */

int value_put(struct context *context, uint64_t handle, int kind, uint64_t at, uint64_t value,
              unsigned width, int how)
{
    struct stream *stream;
    bool pageable;
    engine_lock();
    int r = engine.settings.memops ? stream_find_locked(context, handle, &stream) : SIM_ENOTSUP;
    const char *refused = r ? NULL
                          : at % width ? "an address that is not aligned"
                                       : side_refused(at, width, SIDE_DEVICE, ACCESS_READ, &pageable);
    if (refused) {
        misuse_locked("a value at %#llx: %s", (unsigned long long)at, refused);
        r = SIM_EINVAL;
    }
    if (!r)
        r = stream_put_locked(stream, &(struct work){.kind = kind,
                                                     .value = {.at = at, .value = value, .width = width,
                                                               .how = how}});
    engine_unlock();
    return r;
}

int call_put(struct context *context, uint64_t handle, int kind, void (*function)(void *), void *arg,
             uint64_t ns)
{
    struct stream *stream;
    if (!function)
        return SIM_EINVAL;
    engine_lock();
    int r = stream_find_locked(context, handle, &stream);
    if (!r && kind == SIM_KERNEL && stream->context != context) {
        misuse_locked("a kernel is launched in a stream of another context");
        r = SIM_EHANDLE;
    }
    if (!r)
        r = stream_put_locked(stream, &(struct work){.kind = kind,
                                                     .call = {.function = function, .arg = arg, .ns = ns}});
    engine_unlock();
    return r;
}

SIM_EXPORT int sim_launch(void *stream, void (*kernel)(void *), void *arg, uint64_t ns)
{
    static struct entry entry = {.name = "sim_launch"};
    int code = entry_enter(&entry, ENTRY_INIT | ENTRY_CONTEXT);
    return code ? code
                : entry_leave(call_put(context_current(), vendor.stream(stream), SIM_KERNEL, kernel, arg, ns));
}
