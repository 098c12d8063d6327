/* host.c - page-locked host memory, allocated or registered. Devices know it by
 * its own addresses. May call area.c, stream.c. */
#include <sys/mman.h>

#include "area.h"
#include "stream.h"

enum { PAGE = 4096 };

static uint64_t page_down(uint64_t address)
{
    return address & ~(uint64_t)(PAGE - 1);
}

static uint64_t page_up(uint64_t address)
{
    return page_down(address + PAGE - 1);
}

static bool over_limit(uint64_t bytes)
{
    uint64_t limit = (uint64_t)engine.settings.pinned;
    return limit && engine.counts.pinned + bytes > limit;
}

static bool all_mapped(uint64_t base, uint64_t bytes)
{
    unsigned char seen[64];
    for (uint64_t at = page_down(base); at < base + bytes; at += sizeof seen * PAGE) {
        uint64_t left = page_up(base + bytes) - at;
        uint64_t part = left < sizeof seen * PAGE ? left : sizeof seen * PAGE;
        if (mincore((void *)(uintptr_t)at, part, seen))
            return false;
    }
    return true;
}

static int add_locked(struct context *context, void *p, uint64_t bytes, bool allocated)
{
    struct area *out, area = {.base = (uintptr_t)p, .bytes = bytes, .kind = AREA_HOST, .shadow = p,
                              .device = context->device, .there = true, .allocated = allocated};
    if (over_limit(bytes) || !area_add_locked(&area, &out))
        return SIM_ENOMEM;
    engine.counts.pinned += bytes;
    return SIM_OK;
}

static struct area *find_locked(void *p, bool allocated)
{
    struct area *area = area_at_locked((uintptr_t)p);
    return area && area->base == (uintptr_t)p && area->kind == AREA_HOST &&
                   area->allocated == allocated
               ? area
               : NULL;
}

static void remove_locked(struct area *area)
{
    engine.counts.pinned -= area->bytes;
    area_remove_locked(area);
}

int host_alloc(struct context *context, uint64_t bytes, void **out)
{
    if (!bytes || bytes > UINT64_MAX / 2)
        return bytes ? SIM_ENOMEM : SIM_EINVAL;
    void *p = mmap(NULL, page_up(bytes), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return SIM_ENOMEM;
    engine_lock();
    stream_settle_locked(context, SIM_SYNC_REGISTER);
    int r = add_locked(context, p, bytes, true);
    engine_unlock();
    if (r)
        munmap(p, page_up(bytes));
    else
        *out = p;
    return r;
}

/* Ends what is known of the memory; of which kind it must be is given. */
static int forget(struct context *context, void *p, bool allocated, const char *what, uint64_t *bytes)
{
    engine_lock();
    struct area *area = find_locked(p, allocated);
    if (area) {
        stream_settle_locked(context, SIM_SYNC_REGISTER);
        use_wait_locked(area->base, area->bytes, what);
        area = find_locked(p, allocated); /* the lock was given up meanwhile */
    }
    if (area) {
        *bytes = area->bytes;
        remove_locked(area);
    } else {
        misuse_locked("%s of %p, which is not such memory, or no more", what, p);
    }
    engine_unlock();
    return area ? SIM_OK : SIM_ENOTREGISTERED;
}

int host_free(struct context *context, void *p)
{
    uint64_t bytes;
    if (!p)
        return SIM_OK;
    int r = forget(context, p, true, "freeing host memory", &bytes);
    if (!r)
        munmap(p, page_up(bytes));
    return r ? SIM_EINVAL : SIM_OK;
}

int host_register(struct context *context, void *p, uint64_t bytes)
{
    uint64_t base = (uintptr_t)p;
    if (!p || !bytes || base + bytes < base || !all_mapped(base, bytes))
        return SIM_EINVAL;
    engine_lock();
    stream_settle_locked(context, SIM_SYNC_REGISTER);
    uint64_t first = page_down(base), end = page_up(base + bytes);
    const struct area *other = area_overlapping_locked(first, end - first);
    int r = other ? other->kind == AREA_HOST ? SIM_EREGISTERED : SIM_EINVAL
                  : add_locked(context, p, bytes, false);
    engine_unlock();
    return r;
}

int host_unregister(struct context *context, void *p)
{
    uint64_t bytes;
    return forget(context, p, false, "unregistering", &bytes);
}
