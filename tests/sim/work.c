/* work.c - what the threads of the queues do for each kind of work. A copy moves
 * its first half when it begins and the rest when it ends, so that whoever uses
 * the bytes too early, or changes them too early, sees it. May call area.c,
 * memory.c, events.c. */
#include <stdlib.h>
#include <string.h>

#include "stream.h"

enum { HISTORY = 1 << 14 };
static struct sim_done history[HISTORY];
static unsigned n_done;

/* The work this thread does, for sim_memory() in a kernel. */
static __thread struct work *current;

void work_fail_locked(struct device *device, int error)
{
    if (!device->failed)
        device->failed = error;
    engine_moved_locked();
}

static void fail_at(struct work *work, int error, uint64_t address)
{
    misuse_locked("work in a stream uses %#llx, where nothing is that it may use",
                  (unsigned long long)address);
    work_fail_locked(work->stream->context->device, error == SIM_EINVAL ? SIM_EILLEGAL : error);
}

static void note_locked(const struct work *work)
{
    struct sim_done *d = &history[n_done++ % HISTORY];
    *d = (struct sim_done){.kind = work->kind, .device = work->stream->context->device->id,
                           .stream = (void *)(uintptr_t)work->stream->handle};
    if (work->kind == SIM_COPY) {
        d->direction = work->copy.direction;
        d->pageable = work->copy.to_pageable || work->copy.from_pageable;
        d->to = work->copy.to;
        d->from = work->copy.from;
        d->bytes = work->copy.bytes;
    }
}

SIM_EXPORT bool sim_done(unsigned i, struct sim_done *out)
{
    engine_lock();
    bool there = i < n_done && i + HISTORY >= n_done;
    if (there)
        *out = history[i % HISTORY];
    engine_unlock();
    return there;
}

/* ---- copies ------------------------------------------------------------------------ */

/* Device and bus read host memory by themselves: what the process writes there
 * meanwhile is what a test is to find, and no race between its threads. */
#if defined(__SANITIZE_THREAD__)
__attribute__((noinline, no_sanitize("thread"))) static void read_host(char *to, const char *from,
                                                                       uint64_t bytes)
{
    volatile char *out = to;
    const volatile char *in = from;
    uint64_t i = 0;
    for (; i < bytes && (((uintptr_t)in + i) & 7 || ((uintptr_t)out + i) & 7); i++)
        out[i] = in[i];
    for (; i + 8 <= bytes; i += 8)
        *(volatile uint64_t *)(out + i) = *(const volatile uint64_t *)(in + i);
    for (; i < bytes; i++)
        out[i] = in[i];
}
#else
static void read_host(char *to, const char *from, uint64_t bytes)
{
    memcpy(to, from, bytes);
}
#endif

static void move_bytes(char *to, const char *from, uint64_t bytes, int direction)
{
    if (direction == SIM_HTOD)
        read_host(to, from, bytes);
    else
        memmove(to, from, bytes);
}

/* When a copy that begins now ends: each direction has an engine, or all have one. */
static uint64_t copy_end_locked(struct device *device, int direction, uint64_t bytes)
{
    const struct settings *s = &engine.settings;
    uint64_t now = engine_now(), rate = (uint64_t)s->rate[direction];
    uint64_t *free_at = &device->free_at[s->async_engines > 1 ? direction : 0];
    uint64_t begin = rate && *free_at > now ? *free_at : now;
    uint64_t end = begin + (rate ? (uint64_t)((double)bytes * 1e9 / (double)rate) : 0);
    if (rate)
        *free_at = end;
    return end + (uint64_t)s->latency[direction];
}

static bool lost_by_copy_locked(struct device *device)
{
    if (!device->lose_in || --device->lose_in)
        return false;
    work_fail_locked(device, SIM_ELOST);
    return true;
}

static int side_locked(struct work *work, uint64_t address, bool pageable, bool write, char **at)
{
    *at = (char *)(uintptr_t)address;
    if (pageable)
        return SIM_OK;
    int r = area_resolve_locked(work->stream->context->device, true, address, work->copy.bytes,
                                write ? ACCESS_WRITE : ACCESS_READ, at);
    if (r)
        fail_at(work, r, address);
    return r;
}

static void count_copy_locked(const struct work *work)
{
    engine.counts.copies[work->copy.direction]++;
    engine.counts.bytes[work->copy.direction] += work->copy.bytes;
    if (work->copy.to_pageable || work->copy.from_pageable) {
        engine.counts.pageable_copies++;
        engine.counts.pageable_bytes += work->copy.bytes;
    }
}

/* The bytes, in two halves, without the lock. */
static void copy_bytes_locked(const struct work *work, char *to, const char *from)
{
    int direction = work->copy.direction;
    uint64_t bytes = work->copy.bytes, half = bytes / 2 & ~7ull;
    uint64_t end = copy_end_locked(work->stream->context->device, direction, bytes);
    bool timed = end > engine_now();
    work->stream->context->device->moving++;
    engine_unlock();
    move_bytes(to, from, half, direction);
    engine_lock();
    if (timed)
        engine_sleep_until_locked(end);
    engine_unlock();
    move_bytes(to + half, from + half, bytes - half, direction);
    engine_lock();
    if (engine.settings.corrupt && direction == SIM_DTOH && bytes)
        to[bytes - 1] ^= 1;
    work->stream->context->device->moving--;
}

static void copy_locked(struct work *work)
{
    char *to, *from;
    uint64_t bytes = work->copy.bytes;
    struct use reading = {.base = work->copy.from, .bytes = bytes, .stream = work->stream};
    struct use writing = {.base = work->copy.to, .bytes = bytes, .write = true, .stream = work->stream};
    if (lost_by_copy_locked(work->stream->context->device) ||
        side_locked(work, work->copy.to, work->copy.to_pageable, true, &to) ||
        side_locked(work, work->copy.from, work->copy.from_pageable, false, &from))
        return;
    if (work->copy.aside)
        from = work->copy.aside;
    use_begin_locked(&writing);
    use_begin_locked(&reading);
    copy_bytes_locked(work, to, from);
    use_end_locked(&reading);
    use_end_locked(&writing);
    count_copy_locked(work);
}

static void fill_bytes(char *to, uint64_t bytes, uint32_t value, unsigned width)
{
    if (width == 1)
        memset(to, (int)(value & 0xff), bytes);
    for (uint64_t i = 0; width > 1 && i < bytes; i += width)
        memcpy(to + i, &value, width); /* the low bytes come first */
}

static void fill_locked(struct work *work)
{
    char *to;
    int r = area_resolve_locked(work->stream->context->device, true, work->fill.at, work->fill.bytes,
                                ACCESS_WRITE, &to);
    if (r) {
        fail_at(work, r, work->fill.at);
        return;
    }
    struct use writing = {.base = work->fill.at, .bytes = work->fill.bytes, .write = true,
                          .stream = work->stream};
    use_begin_locked(&writing);
    work->stream->context->device->moving++;
    engine_unlock();
    fill_bytes(to, work->fill.bytes, work->fill.value, work->fill.width);
    engine_lock();
    work->stream->context->device->moving--;
    use_end_locked(&writing);
}

/* ---- values in memory ------------------------------------------------------------------ */

static bool value_at_locked(struct work *work, bool write, void **at)
{
    char *p;
    int r = area_resolve_locked(work->stream->context->device, false, work->value.at, work->value.width,
                                write ? ACCESS_WRITE : ACCESS_READ, &p);
    if (r)
        fail_at(work, r, work->value.at);
    *at = p;
    return !r;
}

static bool satisfied(const struct work *work, const void *at)
{
    bool wide = work->value.width == 8;
    uint64_t is = wide ? __atomic_load_n((const uint64_t *)at, __ATOMIC_ACQUIRE)
                       : __atomic_load_n((const uint32_t *)at, __ATOMIC_ACQUIRE);
    uint64_t value = work->value.value, all = wide ? UINT64_MAX : UINT32_MAX;
    switch (work->value.how) {
    case WAIT_REACHED: return wide ? (int64_t)(is - value) >= 0 : (int32_t)(is - value) >= 0;
    case WAIT_EQUAL: return is == value;
    case WAIT_AND: return (is & value) != 0;
    default: return (~(is | value) & all) != 0;
    }
}

/* Nothing tells when the process writes the value: it is looked at again and again. */
static void wait_value_locked(struct work *work)
{
    void *at;
    work->waiting = "a value in memory";
    while (!work->stream->context->device->failed && value_at_locked(work, false, &at) &&
           !satisfied(work, at))
        engine_wait_locked(50000);
}

static void write_value_locked(struct work *work)
{
    void *at;
    if (!value_at_locked(work, true, &at))
        return;
    if (work->value.width == 8)
        __atomic_store_n((uint64_t *)at, work->value.value, __ATOMIC_RELEASE);
    else
        __atomic_store_n((uint32_t *)at, (uint32_t)work->value.value, __ATOMIC_RELEASE);
}

/* ---- functions --------------------------------------------------------------------------- */

static void kernel_locked(struct work *work)
{
    if (work->call.ns)
        engine_sleep_until_locked(engine_now() + work->call.ns);
    work->stream->context->device->moving++;
    engine_unlock();
    current = work;
    calls_inside = "a kernel";
    work->call.function(work->call.arg);
    calls_inside = NULL;
    current = NULL;
    engine_lock();
    work->stream->context->device->moving--;
    for (struct use *use; (use = work->uses);) {
        work->uses = use->sibling;
        use_end_locked(use);
        free(use);
    }
}

/* Functions of one device run one after the other, as the documentation permits. */
static void host_function_locked(struct work *work)
{
    struct device *device = work->stream->context->device;
    work->waiting = "another host function";
    while (device->calling)
        engine_wait_locked(UINT64_MAX);
    device->calling = true;
    work->waiting = "a host function";
    engine_unlock();
    calls_inside = "a host function";
    work->call.function(work->call.arg);
    calls_inside = NULL;
    engine_lock();
    device->calling = false;
    engine_moved_locked();
}

static void remember_use_locked(struct work *work, uint64_t address, uint64_t bytes)
{
    struct use *use = malloc(sizeof *use);
    if (!use)
        return;
    *use = (struct use){.base = address, .bytes = bytes, .stream = work->stream, .sibling = work->uses};
    use_begin_locked(use);
    work->uses = use;
}

SIM_EXPORT void *sim_memory(uint64_t address, size_t bytes)
{
    char *at;
    engine_lock();
    const struct device *device = current ? current->stream->context->device : NULL;
    int r = area_resolve_locked(device, false, address, bytes, ACCESS_BOTH, &at);
    if (r && current)
        fail_at(current, r, address);
    else if (!r && current)
        remember_use_locked(current, address, bytes);
    engine_unlock();
    return r ? NULL : at;
}

/* ---- all kinds ------------------------------------------------------------------------------ */

static void wait_mark_locked(struct work *work)
{
    work->waiting = "an event";
    while (!work->mark->done && !work->stream->context->device->failed)
        engine_wait_locked(UINT64_MAX);
}

static void reach_mark_locked(struct work *work)
{
    work->mark->done = true;
    work->mark->at = engine_now();
}

static void area_come_locked(struct work *work)
{
    struct area *area = area_at_locked(work->area);
    if (area)
        area->there = true;
}

static void area_go_locked(struct work *work)
{
    struct area *area = area_at_locked(work->area);
    if (area)
        use_wait_locked(area->base, area->bytes, "stream-ordered freeing");
    if ((area = area_at_locked(work->area)))
        memory_remove_locked(area);
}

static void nothing_locked(struct work *work)
{
    (void)work;
}

void work_do_locked(struct work *work)
{
    static void (*const doing[SIM_KINDS])(struct work *) = {
        [SIM_COPY] = copy_locked,
        [SIM_FILL] = fill_locked,
        [SIM_WAIT_EVENT] = wait_mark_locked,
        [SIM_RECORD] = reach_mark_locked,
        [SIM_WAIT_VALUE] = wait_value_locked,
        [SIM_WRITE_VALUE] = write_value_locked,
        [SIM_KERNEL] = kernel_locked,
        [SIM_HOST_FUNCTION] = host_function_locked,
        [SIM_ALLOC] = area_come_locked,
        [SIM_FREE] = area_go_locked,
        [SIM_BARRIER] = nothing_locked,
    };
    bool always = work->kind == SIM_RECORD || work->kind == SIM_FREE; /* others wait for these */
    if (work->stream->context->device->failed && !always)
        return;
    doing[work->kind](work);
    if (!work->stream->context->device->failed)
        note_locked(work);
}

void work_clear_locked(struct work *work)
{
    if (work->kind == SIM_COPY)
        free(work->copy.aside);
    if (work->kind == SIM_WAIT_EVENT || work->kind == SIM_RECORD)
        mark_drop_locked(work->mark);
}
