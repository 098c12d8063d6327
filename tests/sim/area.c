/* area.c - the index of the simulated devices' address ranges; see area.h. May
 * call calls.c. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "stream.h"

static struct area **areas; /* by address */
static unsigned n_areas, room;
static struct use *uses;

/* The first area that ends after an address. */
static unsigned index_after(uint64_t address)
{
    unsigned low = 0, high = n_areas;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (areas[middle]->base + areas[middle]->bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool make_room(void)
{
    if (n_areas < room)
        return true;
    unsigned more = room ? room * 2 : 64;
    struct area **bigger = realloc(areas, more * sizeof *areas);
    if (!bigger)
        return false;
    areas = bigger;
    room = more;
    return true;
}

bool area_add_locked(const struct area *area, struct area **out)
{
    struct area *copy = malloc(sizeof *copy);
    if (!copy || !make_room()) {
        free(copy);
        return false;
    }
    *copy = *area;
    unsigned at = index_after(area->base);
    memmove(areas + at + 1, areas + at, (n_areas - at) * sizeof *areas);
    areas[at] = copy;
    n_areas++;
    *out = copy;
    return true;
}

void area_remove_locked(struct area *area)
{
    unsigned at = index_after(area->base);
    n_areas--;
    memmove(areas + at, areas + at + 1, (n_areas - at) * sizeof *areas);
    free(area->maps);
    free(area);
}

struct area *area_at_locked(uint64_t address)
{
    unsigned at = index_after(address);
    return at < n_areas && areas[at]->base <= address ? areas[at] : NULL;
}

struct area *area_overlapping_locked(uint64_t base, uint64_t bytes)
{
    unsigned at = index_after(base);
    return at < n_areas && areas[at]->base < base + bytes ? areas[at] : NULL;
}

struct area *area_number_locked(unsigned i)
{
    return i < n_areas ? areas[i] : NULL;
}

uint64_t area_reserve(uint64_t bytes, uint64_t align, uint64_t hint)
{
    void *wanted = (void *)(uintptr_t)(align > 1 ? hint & ~(align - 1) : hint);
    char *p = mmap(wanted, bytes + align, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return 0;
    uintptr_t start = ((uintptr_t)p + align - 1) & ~(uintptr_t)(align - 1);
    uintptr_t end = start + bytes, mapped_end = (uintptr_t)p + bytes + align;
    if (start > (uintptr_t)p)
        munmap(p, start - (uintptr_t)p);
    if (mapped_end > end)
        munmap((char *)p + (end - (uintptr_t)p), mapped_end - end);
    return start;
}

char *area_shadow(uint64_t bytes, bool accessible)
{
    void *p = mmap(NULL, bytes, accessible ? PROT_READ | PROT_WRITE : PROT_NONE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

unsigned area_map_after(const struct area *area, uint64_t address)
{
    unsigned low = 0, high = area->n_maps;
    while (low < high) {
        unsigned middle = (low + high) / 2;
        if (area->maps[middle].base + area->maps[middle].bytes <= address)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static bool mapping_allows(const struct mapping *m, const struct device *device, bool copying,
                           unsigned access)
{
    if (device && (m->access[device->id] & access) == access)
        return true;
    for (int i = 0; (copying || !device) && i < MAX_DEVICES; i++)
        if ((m->access[i] & access) == access)
            return true;
    return false;
}

static bool all_mapped(const struct area *area, const struct device *device, bool copying,
                       uint64_t address, uint64_t end, unsigned access)
{
    for (unsigned i = area_map_after(area, address); address < end; i++) {
        const struct mapping *m = area->maps + i;
        if (i >= area->n_maps || m->base > address || !mapping_allows(m, device, copying, access))
            return false;
        address = m->base + m->bytes;
    }
    return true;
}

static bool allowed(const struct area *area, const struct device *device, bool copying)
{
    return !device || copying || area->device == device ||
           device->context.peers[area->device->id];
}

int area_resolve_locked(const struct device *device, bool copying, uint64_t address, uint64_t bytes,
                        unsigned access, char **at)
{
    const struct area *area = area_at_locked(address);
    if (!area || bytes > area->base + area->bytes - address)
        return SIM_EINVAL;
    if (area->kind == AREA_RESERVED &&
        !all_mapped(area, device, copying, address, address + bytes, access))
        return SIM_EILLEGAL;
    if (area->kind == AREA_MEMORY && (!area->there || !allowed(area, device, copying)))
        return SIM_EILLEGAL;
    *at = area->shadow + (address - area->base);
    return SIM_OK;
}

static bool overlap(const struct use *use, uint64_t base, uint64_t bytes)
{
    return use->base < base + bytes && base < use->base + use->bytes;
}

void use_begin_locked(struct use *use)
{
    for (const struct use *other = uses; other; other = other->next)
        if (other->stream != use->stream && (other->write || use->write) &&
            overlap(other, use->base, use->bytes))
            misuse_locked("two streams use the same bytes at %#llx at the same time, and one writes them",
                          (unsigned long long)(use->base > other->base ? use->base : other->base));
    use->next = uses;
    uses = use;
}

void use_end_locked(struct use *use)
{
    struct use **at = &uses;
    while (*at != use)
        at = &(*at)->next;
    *at = use->next;
}

static const struct use *used(uint64_t base, uint64_t bytes)
{
    for (const struct use *use = uses; use; use = use->next)
        if (overlap(use, base, bytes))
            return use;
    return NULL;
}

void use_wait_locked(uint64_t base, uint64_t bytes, const char *what)
{
    const struct use *use = used(base, bytes);
    if (use && !use->stream->context->device->failed) /* else nobody can have waited for it */
        misuse_locked("%s of %#llx while work in a stream uses it", what, (unsigned long long)base);
    while (used(base, bytes))
        engine_wait_locked(10000000);
}
