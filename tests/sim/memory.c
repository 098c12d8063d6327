/* memory.c - memory of simulated devices that is allocated at once, and what can
 * be asked of any. May call area.c, account.c, stream.c. */
#include <string.h>
#include <sys/mman.h>

#include "area.h"
#include "stream.h"

enum { PAGE = 4096 };

static uint64_t rounded(uint64_t bytes)
{
    return (bytes + PAGE - 1) & ~(uint64_t)(PAGE - 1);
}

/* Address space, and memory behind it, which is not zeroed on real devices. */
static int make_area(struct area *area, uint64_t bytes)
{
    area->base = area_reserve(rounded(bytes), PAGE, 0);
    area->shadow = area_shadow(rounded(bytes), true);
    if (area->base && area->shadow) {
        memset(area->shadow, 0xA5, bytes < PAGE ? bytes : PAGE);
        return SIM_OK;
    }
    if (area->base)
        munmap((void *)(uintptr_t)area->base, rounded(bytes));
    if (area->shadow)
        munmap(area->shadow, rounded(bytes));
    return SIM_ENOMEM;
}

int memory_add_locked(struct device *device, uint64_t bytes, bool ordered, struct area **out)
{
    if (!bytes)
        return SIM_EINVAL;
    if (bytes > UINT64_MAX / 2 || !account_take(device->id, rounded(bytes)))
        return SIM_ENOMEM;
    struct area area = {.bytes = bytes, .kind = AREA_MEMORY, .device = device, .there = !ordered,
                        .ordered = ordered};
    int r = make_area(&area, bytes);
    if (!r && !area_add_locked(&area, out))
        r = SIM_ENOMEM;
    if (r) {
        account_give(device->id, rounded(bytes));
        return r;
    }
    engine.counts.used[device->id] += rounded(bytes);
    return SIM_OK;
}

void memory_remove_locked(struct area *area)
{
    uint64_t bytes = rounded(area->bytes);
    munmap((void *)(uintptr_t)area->base, bytes);
    munmap(area->shadow, bytes);
    account_give(area->device->id, bytes);
    engine.counts.used[area->device->id] -= bytes;
    area_remove_locked(area);
}

int memory_alloc(struct context *context, uint64_t bytes, uint64_t *address)
{
    struct area *area;
    engine_lock();
    stream_settle_locked(context, SIM_SYNC_ALLOC);
    int r = memory_add_locked(context->device, bytes, false, &area);
    if (!r)
        *address = area->base;
    engine_unlock();
    return r;
}

int memory_free(uint64_t address)
{
    if (!address)
        return SIM_OK;
    engine_lock();
    struct area *area = area_at_locked(address);
    int r = SIM_OK;
    if (!area || area->base != address || area->kind != AREA_MEMORY || area->freed) {
        misuse_locked("memory at %#llx is freed and is not an allocation, or no more",
                      (unsigned long long)address);
        r = SIM_EINVAL;
    } else {
        uint64_t bytes = area->bytes;
        if (!area->ordered)
            stream_settle_locked(&area->device->context, SIM_SYNC_FREE);
        use_wait_locked(address, bytes, "freeing");
        area = area_at_locked(address); /* the lock was given up meanwhile */
        if (area && area->base == address)
            memory_remove_locked(area);
    }
    engine_unlock();
    return r;
}

int memory_info(int device, uint64_t *free, uint64_t *total)
{
    engine_lock();
    uint64_t capacity = (uint64_t)engine.settings.capacity, used = account_used(device);
    engine_unlock();
    *free = capacity > used ? capacity - used : 0;
    *total = capacity;
    return SIM_OK;
}

int memory_range(uint64_t address, uint64_t *base, uint64_t *bytes)
{
    engine_lock();
    const struct area *area = area_at_locked(address);
    if (area) {
        *base = area->base;
        *bytes = area->bytes;
    }
    engine_unlock();
    return area ? SIM_OK : SIM_EINVAL;
}

enum memory_kind memory_kind(uint64_t address, int *device)
{
    engine_lock();
    const struct area *area = area_at_locked(address);
    enum memory_kind kind = !area ? MEMORY_NONE : area->kind == AREA_HOST ? MEMORY_HOST : MEMORY_DEVICE;
    if (area && area->kind == AREA_RESERVED) {
        unsigned i = area_map_after(area, address);
        bool mapped = i < area->n_maps && area->maps[i].base <= address;
        kind = !mapped ? MEMORY_NONE
               : area->maps[i].physical->place == PLACE_DEVICE ? MEMORY_DEVICE : MEMORY_HOST;
        *device = mapped && kind == MEMORY_DEVICE ? area->maps[i].physical->id : 0;
    } else if (area) {
        *device = area->device->id;
    }
    engine_unlock();
    return kind;
}

SIM_EXPORT bool sim_on_device(uint64_t address)
{
    int device;
    return memory_kind(address, &device) == MEMORY_DEVICE;
}

SIM_EXPORT bool sim_read(void *to, uint64_t from, size_t bytes)
{
    char *at;
    engine_lock();
    bool there = !area_resolve_locked(NULL, false, from, bytes, ACCESS_READ, &at);
    if (there)
        memcpy(to, at, bytes);
    engine_unlock();
    return there;
}

SIM_EXPORT bool sim_write(uint64_t to, const void *from, size_t bytes)
{
    char *at;
    engine_lock();
    bool there = !area_resolve_locked(NULL, false, to, bytes, ACCESS_WRITE, &at);
    if (there)
        memcpy(at, from, bytes);
    engine_unlock();
    return there;
}

SIM_EXPORT bool sim_occupy(int device, int64_t bytes)
{
    engine_start();
    if (device < 0 || device >= engine.settings.devices)
        return false;
    if (bytes < 0)
        account_give(device, (uint64_t)-bytes);
    return bytes < 0 || account_take(device, (uint64_t)bytes);
}
