/* pages.c - virtual memory of simulated devices: address space is reserved,
 * physical memory created, and the one mapped to the other. Stricter than a
 * driver may be where the documentation forbids: such calls fail, and are
 * misuses. May call area.c, account.c, objects.c, stream.c. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "area.h"
#include "stream.h"

enum { PAGE = 4096 };

/* The file all physical memory lies in; its offsets are never used again, what
 * is given back becomes a hole. */
static int file = -1;
static uint64_t file_end;

static bool aligned(uint64_t value)
{
    return value % (uint64_t)engine.settings.granularity == 0;
}

/* ---- reserving -------------------------------------------------------------- */

int pages_reserve(uint64_t bytes, uint64_t align, uint64_t hint, uint64_t *address)
{
    if (!engine.settings.vmm)
        return SIM_ENOTSUP;
    if (!bytes || bytes % PAGE || (align & (align - 1)) || hint % PAGE) {
        misuse("reserving %llu bytes, alignment %llu, at %#llx: not whole pages, or no power of two",
               (unsigned long long)bytes, (unsigned long long)align, (unsigned long long)hint);
        return SIM_EINVAL;
    }
    uint64_t least = (uint64_t)engine.settings.granularity;
    struct area *out, area = {.bytes = bytes, .kind = AREA_RESERVED, .there = true};
    if (bytes > 1ull << 46 || !(area.base = area_reserve(bytes, align > least ? align : least, hint)))
        return SIM_ENOMEM;
    area.shadow = area_shadow(bytes, false);
    engine_lock();
    bool added = area.shadow && area_add_locked(&area, &out);
    engine.counts.reserved += added ? bytes : 0;
    engine_unlock();
    if (!added) {
        munmap((void *)(uintptr_t)area.base, bytes);
        return SIM_ENOMEM;
    }
    *address = area.base;
    return SIM_OK;
}

static int unreserve_locked(uint64_t address, uint64_t bytes)
{
    struct area *area = area_at_locked(address);
    if (!area || area->kind != AREA_RESERVED || area->base != address || area->bytes != bytes ||
        area->n_maps) {
        misuse_locked("freeing addresses %#llx, %llu bytes: %s", (unsigned long long)address,
                      (unsigned long long)bytes,
                      area && area->n_maps ? "memory is mapped there" : "not a reservation, or no more");
        return SIM_EINVAL;
    }
    munmap((void *)(uintptr_t)area->base, bytes);
    munmap(area->shadow, bytes);
    engine.counts.reserved -= bytes;
    area_remove_locked(area);
    return SIM_OK;
}

int pages_unreserve(uint64_t address, uint64_t bytes)
{
    engine_lock();
    int r = unreserve_locked(address, bytes);
    engine_unlock();
    return r;
}

/* ---- creating ------------------------------------------------------------------ */

static int place_check_locked(enum place place, int id, uint64_t bytes)
{
    const struct settings *s = &engine.settings;
    bool there = place == PLACE_DEVICE ? s->vmm : place == PLACE_HOST ? s->host_vmm : s->host_numa_vmm;
    if (!s->vmm || !there)
        return SIM_ENOTSUP;
    if (place == PLACE_DEVICE && (id < 0 || id >= s->devices))
        return SIM_EBADDEVICE;
    if ((place == PLACE_NODE && (id < 0 || id >= s->nodes)) || !bytes || !aligned(bytes)) {
        misuse_locked("creating %llu bytes of memory in place %d: not whole granules, or no such node",
                      (unsigned long long)bytes, id);
        return SIM_EINVAL;
    }
    return SIM_OK;
}

static bool take_locked(enum place place, int id, uint64_t bytes)
{
    uint64_t limit = (uint64_t)engine.settings.pinned;
    if (place == PLACE_DEVICE) {
        if (!account_take(id, bytes))
            return false;
        engine.counts.used[id] += bytes;
        return true;
    }
    if (limit && engine.counts.pinned + bytes > limit)
        return false;
    engine.counts.pinned += bytes;
    return true;
}

static void give_locked(enum place place, int id, uint64_t bytes)
{
    if (place == PLACE_DEVICE) {
        account_give(id, bytes);
        engine.counts.used[id] -= bytes;
    } else {
        engine.counts.pinned -= bytes;
    }
}

static bool extend_file_locked(uint64_t bytes, uint64_t *at)
{
    if (file < 0)
        file = memfd_create("simulated device memory", MFD_CLOEXEC);
    if (file < 0 || ftruncate(file, (off_t)(file_end + bytes)))
        return false;
    *at = file_end;
    file_end += bytes;
    unsigned char other[PAGE]; /* memory of a device does not begin as zeros */
    memset(other, 0xA5, sizeof other);
    return pwrite(file, other, sizeof other, (off_t)*at) == sizeof other;
}

static int create_locked(enum place place, int id, uint64_t bytes, uint64_t *handle)
{
    int r = place_check_locked(place, id, bytes);
    if (r)
        return r;
    struct physical *p = calloc(1, sizeof *p);
    if (!p || !take_locked(place, id, bytes)) {
        free(p);
        return SIM_ENOMEM;
    }
    if (!extend_file_locked(bytes, &p->at)) {
        give_locked(place, id, bytes);
        free(p);
        return SIM_ENOMEM;
    }
    p->place = place;
    p->id = id;
    p->bytes = bytes;
    p->handle = *handle = object_add_locked(OBJECT_PHYSICAL, p);
    return SIM_OK;
}

int pages_create(enum place place, int id, uint64_t bytes, uint64_t *handle)
{
    engine_lock();
    int r = create_locked(place, place == PLACE_HOST ? 0 : id, bytes, handle);
    engine_unlock();
    return r;
}

/* The memory is given back when it is neither mapped nor has a handle. */
static void physical_done_locked(struct physical *p)
{
    if (!p->released || p->mappings)
        return;
    if (fallocate(file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)p->at, (off_t)p->bytes))
        misuse_locked("simulated memory could not be given back");
    give_locked(p->place, p->id, p->bytes);
    free(p);
}

int pages_release(uint64_t handle)
{
    engine_lock();
    struct physical *p = object_find_locked(OBJECT_PHYSICAL, handle);
    if (p) {
        object_remove_locked(handle);
        p->released = true;
        physical_done_locked(p);
    } else {
        misuse_locked("releasing memory %#llx, which is no handle, or no more", (unsigned long long)handle);
    }
    engine_unlock();
    return p ? SIM_OK : SIM_EINVAL;
}

/* ---- mapping ---------------------------------------------------------------------- */

static const char *map_refused(const struct area *area, const struct physical *p, uint64_t address,
                               uint64_t bytes)
{
    if (!p)
        return "no handle of memory, or no more";
    if (!bytes || !aligned(address) || !aligned(bytes))
        return "not whole granules";
    if (bytes > p->bytes)
        return "larger than the memory";
    if (!area || area->kind != AREA_RESERVED || bytes > area->base + area->bytes - address)
        return "not inside of a reservation";
    unsigned i = area_map_after(area, address);
    return i < area->n_maps && area->maps[i].base < address + bytes ? "something is mapped there" : NULL;
}

static int map_locked(uint64_t address, uint64_t bytes, uint64_t handle)
{
    struct area *area = area_at_locked(address);
    struct physical *p = object_find_locked(OBJECT_PHYSICAL, handle);
    const char *refused = map_refused(area, p, address, bytes);
    if (refused) {
        misuse_locked("mapping %llu bytes at %#llx: %s", (unsigned long long)bytes,
                      (unsigned long long)address, refused);
        return SIM_EINVAL;
    }
    struct mapping *maps = realloc(area->maps, (area->n_maps + 1) * sizeof *maps);
    if (!maps)
        return SIM_ENOMEM;
    area->maps = maps;
    if (mmap(area->shadow + (address - area->base), bytes, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_FIXED, file, (off_t)p->at) == MAP_FAILED)
        return SIM_ENOMEM;
    unsigned i = area_map_after(area, address);
    memmove(maps + i + 1, maps + i, (area->n_maps++ - i) * sizeof *maps);
    maps[i] = (struct mapping){.base = address, .bytes = bytes, .physical = p};
    p->mappings++;
    return SIM_OK;
}

int pages_map(struct context *context, uint64_t address, uint64_t bytes, uint64_t handle)
{
    engine_lock();
    stream_settle_locked(context, SIM_SYNC_MAP);
    int r = map_locked(address, bytes, handle);
    engine_unlock();
    return r;
}

/* Whether a range is whole mappings without a gap; which ones. */
static bool whole_mappings(const struct area *area, uint64_t address, uint64_t bytes, unsigned *first,
                           unsigned *n)
{
    if (!area || area->kind != AREA_RESERVED || !bytes)
        return false;
    unsigned i = *first = area_map_after(area, address);
    uint64_t end = address + bytes;
    for (; address < end; i++) {
        if (i >= area->n_maps || area->maps[i].base != address)
            return false;
        address += area->maps[i].bytes;
    }
    *n = i - *first;
    return address == end;
}

static void forbid(void *at, uint64_t bytes)
{
    mmap(at, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
}

static int unmap_locked(uint64_t address, uint64_t bytes)
{
    unsigned first, n;
    use_wait_locked(address, bytes, "unmapping");
    struct area *area = area_at_locked(address);
    if (!whole_mappings(area, address, bytes, &first, &n)) {
        misuse_locked("unmapping %llu bytes at %#llx: not whole mappings, or no more",
                      (unsigned long long)bytes, (unsigned long long)address);
        return SIM_EINVAL;
    }
    forbid(area->shadow + (address - area->base), bytes);
    forbid((void *)(uintptr_t)address, bytes);
    for (unsigned i = first; i < first + n; i++) {
        area->maps[i].physical->mappings--;
        physical_done_locked(area->maps[i].physical);
    }
    area->n_maps -= n;
    memmove(area->maps + first, area->maps + first + n, (area->n_maps - first) * sizeof *area->maps);
    return SIM_OK;
}

int pages_unmap(struct context *context, uint64_t address, uint64_t bytes)
{
    engine_lock();
    stream_settle_locked(context, SIM_SYNC_UNMAP);
    int r = unmap_locked(address, bytes);
    engine_unlock();
    return r;
}

/* ---- access ------------------------------------------------------------------------- */

/* Host memory can be made usable by the process at the mapped addresses. */
static int host_access_locked(const struct mapping *m, unsigned access)
{
    if (m->physical->place == PLACE_DEVICE)
        return SIM_EINVAL;
    int prot = (access & ACCESS_READ ? PROT_READ : 0) | (access & ACCESS_WRITE ? PROT_WRITE : 0);
    void *at = (void *)(uintptr_t)m->base;
    return mmap(at, m->bytes, prot, MAP_SHARED | MAP_FIXED, file, (off_t)m->physical->at) == at ? SIM_OK
                                                                                              : SIM_ENOMEM;
}

static int device_access_locked(struct mapping *m, int device, unsigned access)
{
    if (m->physical->place == PLACE_DEVICE && m->physical->id != device && !engine.settings.peer)
        return SIM_EBADDEVICE;
    m->access[device] = (unsigned char)access;
    return SIM_OK;
}

static int set_access_locked(uint64_t address, uint64_t bytes, int device, bool host, unsigned access)
{
    unsigned first, n;
    struct area *area = area_at_locked(address);
    if (!host && (device < 0 || device >= engine.settings.devices))
        return SIM_EBADDEVICE;
    if (!whole_mappings(area, address, bytes, &first, &n)) {
        misuse_locked("access to %llu bytes at %#llx: not whole mappings", (unsigned long long)bytes,
                      (unsigned long long)address);
        return SIM_EINVAL;
    }
    int r = SIM_OK;
    for (unsigned i = first; !r && i < first + n; i++)
        r = host ? host_access_locked(area->maps + i, access)
                 : device_access_locked(area->maps + i, device, access);
    return r;
}

int pages_set_access(uint64_t address, uint64_t bytes, int device, bool host, unsigned access)
{
    engine_lock();
    int r = set_access_locked(address, bytes, device, host, access);
    engine_unlock();
    return r;
}

int pages_get_access(uint64_t address, int device, unsigned *access)
{
    engine_lock();
    const struct area *area = area_at_locked(address);
    unsigned i = area && area->kind == AREA_RESERVED ? area_map_after(area, address) : 0;
    bool mapped = area && i < area->n_maps && area->maps[i].base <= address && device >= 0 &&
                  device < MAX_DEVICES;
    if (mapped)
        *access = area->maps[i].access[device];
    engine_unlock();
    return mapped ? SIM_OK : SIM_EINVAL;
}
