/* cuda_memory.c - the device's memory: address space, and what is behind it.
 *
 * With virtual memory management a reservation is address space only. Physical
 * memory comes in granules of 2 MiB, each mapped by itself, since the driver
 * takes back only what it has mapped at once. The core commits by pages of
 * 4 KiB: a granule is there as long as one page of it is committed. So the
 * device holds a little more than the core counts where many tensors are not
 * multiples of a granule, at most one granule for every hole between them.
 * The handle of physical memory is given up as soon as it is mapped; it goes
 * when it is unmapped.
 *
 * Where TERRACE_CUDA_HOST_MEMORY allows it, granules for which the device has no
 * room come from host memory next to it, which its kernels use through the bus.
 *
 * Without virtual memory management a reservation is an allocation of memory, and
 * there is nothing to commit; the core then reserves the budget once, and no more. */
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "cuda_unit.h"

/* ---- how memory is managed ----------------------------------------------- */

static int attribute(const struct cuda_unit *u, cuda_attribute which)
{
    int value = 0;
    return cuda.device_attribute(&value, which, u->device) == CUDA_OK ? value : 0;
}

cuda_property cuda_property_of(const struct cuda_unit *u, bool in_host)
{
    cuda_property p = {.type = CUDA_PINNED};
    p.location.type = in_host ? u->host_kind : CUDA_ON_DEVICE;
    p.location.id = !in_host ? u->device : u->host_kind == CUDA_ON_NODE ? u->node : 0;
    p.flags.rdma = !in_host && u->rdma;
    return p;
}

/* "8G" or "1.5 GiB": the core has checked it. */
static uint64_t bytes_of(const char *text)
{
    static const char units[] = "kmgtp";
    char *end;
    double bytes = strtod(text, &end);
    while (*end == ' ')
        end++;
    for (const char *unit = units; *end && *unit; unit++) {
        bytes *= 1024;
        if (tolower((unsigned char)*end) == *unit)
            break;
    }
    return (uint64_t)bytes;
}

/* Raises the granule to what the driver maps at least. */
static cuda_result granule_find(struct cuda_unit *u, bool in_host)
{
    size_t least = 0;
    const cuda_property p = cuda_property_of(u, in_host);
    cuda_result r = cuda.granularity(&least, &p, CUDA_LEAST_GRANULARITY);
    if (r == CUDA_OK && least > u->granule)
        u->granule = least;
    return r;
}

/* Which host memory the device can use at addresses of its own: that of the node next
 * to it, else any; 0: none. */
static unsigned host_kind_find(struct cuda_unit *u)
{
    bool node = u->node >= 0 && attribute(u, CUDA_HAS_NODE_MEMORY_WITH_THAT) > 0;
    u->host_kind = node ? CUDA_ON_NODE : CUDA_ON_HOST;
    if (!node && attribute(u, CUDA_HAS_HOST_MEMORY_WITH_THAT) <= 0)
        return 0;
    return granule_find(u, true) == CUDA_OK ? u->host_kind : 0;
}

/* Host memory for what the device has no room for. */
static void host_memory_open(struct cuda_unit *u, char *reason, size_t len)
{
    const terrace_host *host = u->host;
    const char *asked = host->option(host->context, "CUDA_HOST_MEMORY");
    uint64_t bytes = asked ? bytes_of(asked) : 0;
    if (bytes == 0)
        return;
    bool can = u->virtual_memory && attribute(u, CUDA_HAS_NODE_MEMORY_WITH_THAT) > 0;
    if (can && u->host_kind == CUDA_ON_NODE) {
        u->host_room = bytes;
        snprintf(reason, len, "; what does not fit comes from node %d, at most %.1f GiB", u->node,
                 (double)bytes / (1 << 30));
        return;
    }
    snprintf(reason, len, "; no host memory, as %s", !can ? "device and driver do not map it" : "its node is not known");
    host->log(host->context, TERRACE_LOG_WARN, "TERRACE_CUDA_HOST_MEMORY=%s: cuda:%d gets%s", asked, u->index,
              reason + 1);
}

cuda_result cuda_memory_open(struct cuda_unit *u, char *reason, size_t len)
{
    const char *lacks = cuda_lacks_virtual_memory();
    char host_reason[128] = "";
    u->granule = 2 << 20;
    u->virtual_memory = !lacks && attribute(u, CUDA_HAS_VIRTUAL_MEMORY) > 0;
    u->rdma = u->virtual_memory && attribute(u, CUDA_HAS_RDMA_WITH_THAT) > 0;
    cuda_result r = u->virtual_memory ? granule_find(u, false) : CUDA_OK;
    if (r)
        return r;
    u->host_kind = u->virtual_memory ? host_kind_find(u) : 0;
    host_memory_open(u, host_reason, sizeof host_reason);
    if (u->virtual_memory)
        snprintf(reason, len, "virtual memory management, by granules of %llu MiB%s",
                 (unsigned long long)(u->granule >> 20), host_reason);
    else
        snprintf(reason, len, "all memory is allocated at once, for want of virtual memory management (%s%s)%s",
                 lacks ? "the driver has no " : "the device has none", lacks ? lacks : "", host_reason);
    return CUDA_OK;
}

/* ---- ranges -------------------------------------------------------------- */

struct cuda_range *cuda_range_find(struct cuda_unit *u, uint64_t address, uint64_t bytes)
{
    pthread_mutex_lock(&u->lock);
    struct cuda_range *r = u->ranges;
    while (r && address - r->base >= r->bytes)
        r = r->next;
    pthread_mutex_unlock(&u->lock);
    return r && bytes <= r->bytes - (address - r->base) ? r : NULL;
}

static uint64_t granules_of(const struct cuda_unit *u, const struct cuda_range *range)
{
    return u->virtual_memory ? range->bytes / u->granule : 0;
}

bool cuda_memory_holds(struct cuda_unit *u, uint64_t address, uint64_t bytes)
{
    const struct cuda_range *range = bytes ? cuda_range_find(u, address, bytes) : NULL;
    if (!range || !u->virtual_memory)
        return range != NULL;
    uint64_t last = (address + bytes - 1 - range->base) / u->granule;
    for (uint64_t g = (address - range->base) / u->granule; g <= last; g++) {
        uint32_t is = atomic_load_explicit(&range->granule[g], memory_order_relaxed);
        if ((is & CUDA_PAGES_MASK) == 0 || is & CUDA_ADRIFT)
            return false;
    }
    return true;
}

/* Memory at a multiple of the granule: a little more, where there is no other way. */
static cuda_result allocate(const struct cuda_unit *u, uint64_t bytes, struct cuda_range *range)
{
    cuda_result r = cuda.memory_alloc(&range->given, bytes);
    if (r == CUDA_OK && range->given % u->granule) {
        (void)CUDA_UNDO(cuda.memory_free(range->given));
        r = cuda.memory_alloc(&range->given, bytes + u->granule);
    }
    range->base = (range->given + u->granule - 1) / u->granule * u->granule;
    return r;
}

static cuda_result reserve(const struct cuda_unit *u, uint64_t bytes, struct cuda_range *range)
{
    cuda_address address = 0;
    if (!u->virtual_memory)
        return allocate(u, bytes, range);
    cuda_result r = cuda.reserve(&address, bytes, u->granule, 0, 0);
    range->base = address;
    return r;
}

int cuda_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    uint64_t size = (bytes + u->granule - 1) / u->granule * u->granule;
    (void)flags;
    if (bytes == 0 || bytes > UINT64_C(1) << 56)
        return u->host->fail(u->host->context, -TERRACE_ENOTSUP, "cuda:%d has no %llu bytes of addresses",
                             u->index, (unsigned long long)bytes);
    uint64_t granules = u->virtual_memory ? size / u->granule : 0;
    struct cuda_range *range = calloc(1, sizeof *range + granules * sizeof range->granule[0]);
    if (!range)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to manage that of cuda:%d",
                             u->index);
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        r = reserve(u, size, range);
        cuda_leave(&scope);
    }
    if (r) {
        free(range);
        r = (u->virtual_memory && r == CUDA_INVALID_VALUE) ? CUDA_NOT_SUPPORTED : r;
        return cuda_fail(u, r, "reserving %llu bytes", (unsigned long long)size);
    }
    pthread_mutex_lock(&u->lock);
    *base = range->base;
    range->bytes = size;
    range->next = u->ranges;
    u->ranges = range;
    pthread_mutex_unlock(&u->lock);
    return 0;
}

/* ---- granules ------------------------------------------------------------ */

static uint64_t address_of(const struct cuda_unit *u, const struct cuda_range *range, uint64_t g)
{
    return range->base + g * u->granule;
}

static bool is_there(const struct cuda_range *range, uint64_t g)
{
    return range->granule[g] & CUDA_PAGES_MASK;
}

/* Puts memory of one kind behind a granule. */
static cuda_result place_locked(struct cuda_unit *u, struct cuda_range *range, uint64_t g, bool in_host)
{
    const cuda_property p = cuda_property_of(u, in_host);
    cuda_memory memory;
    cuda_result r = cuda.create(&memory, u->granule, &p, 0);
    if (r)
        return r;
    r = cuda.map(address_of(u, range, g), u->granule, 0, memory, 0);
    (void)CUDA_UNDO(cuda.release(memory));
    if (r)
        return r;
    range->granule[g] = in_host ? CUDA_IN_HOST : 0;
    *(in_host ? &u->in_host : &u->in_device) += u->granule;
    return CUDA_OK;
}

static cuda_result fill_locked(struct cuda_unit *u, struct cuda_range *range, uint64_t g)
{
    cuda_result r = CUDA_OUT_OF_MEMORY;
    if (u->host_room == 0 || u->in_device + u->granule <= u->device_room)
        r = place_locked(u, range, g, false);
    if (r == CUDA_OUT_OF_MEMORY && u->in_host + u->granule <= u->host_room)
        r = place_locked(u, range, g, true);
    return r;
}

uint64_t *cuda_books_of(struct cuda_unit *u, uint32_t granule)
{
    return !(granule & CUDA_IN_HOST) ? &u->in_device : granule & CUDA_PLACED ? &u->placed_in_host : &u->in_host;
}

static void empty_locked(struct cuda_unit *u, struct cuda_range *range, uint64_t g)
{
    uint64_t at = address_of(u, range, g);
    if (!(range->granule[g] & CUDA_ADRIFT ? cuda_adrift_drop(u, at) : CUDA_UNDO(cuda.unmap(at, u->granule))))
        u->host->log(u->host->context, TERRACE_LOG_DEBUG, "cuda:%d keeps a granule of memory", u->index);
    *cuda_books_of(u, range->granule[g]) -= u->granule;
    range->granule[g] = 0;
}

/* Lets the device use what was placed from `g` to before `end`: those that were there
 * before are left out. */
static cuda_result open_locked(struct cuda_unit *u, struct cuda_range *range, uint64_t g, uint64_t end)
{
    const cuda_access access = {{CUDA_ON_DEVICE, u->device}, CUDA_READ_WRITE};
    cuda_result r = CUDA_OK;
    while (r == CUDA_OK && g < end) {
        uint64_t from = g;
        while (g < end && !is_there(range, g))
            g++;
        if (g > from)
            r = cuda.set_access(address_of(u, range, from), (g - from) * u->granule, &access, 1);
        while (g < end && is_there(range, g))
            g++;
    }
    return r;
}

/* Memory behind all granules from `first` to `last`; after a failure as it was. */
static cuda_result map_locked(struct cuda_unit *u, struct cuda_range *range, uint64_t first, uint64_t last)
{
    cuda_result r = CUDA_OK;
    uint64_t end = first;
    while (end <= last && (is_there(range, end) || (r = fill_locked(u, range, end)) == CUDA_OK))
        end++;
    if (r == CUDA_OK)
        r = open_locked(u, range, first, end);
    while (r && end-- > first)
        if (!is_there(range, end))
            empty_locked(u, range, end);
    return r;
}

/* How many pages of [address, address + bytes) lie in a granule. */
static uint32_t pages_in(const struct cuda_unit *u, const struct cuda_range *range, uint64_t g, uint64_t address,
                         uint64_t bytes)
{
    uint64_t from = address_of(u, range, g), to = from + u->granule;
    if (from < address)
        from = address;
    if (to > address + bytes)
        to = address + bytes;
    return (uint32_t)((to - from + CUDA_PAGE - 1) / CUDA_PAGE);
}

/* ---- committing ---------------------------------------------------------- */

int cuda_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    struct cuda_range *range = cuda_range_find(u, address, bytes);
    if (!range || bytes == 0)
        return u->host->fail(u->host->context, -TERRACE_EINVAL, "not an address of cuda:%d", u->index);
    if (!u->virtual_memory)
        return 0;
    uint64_t first = (address - range->base) / u->granule, last = (address + bytes - 1 - range->base) / u->granule;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        pthread_mutex_lock(&u->mapping);
        r = map_locked(u, range, first, last);
        for (uint64_t g = first; r == CUDA_OK && g <= last; g++)
            range->granule[g] += pages_in(u, range, g, address, bytes);
        pthread_mutex_unlock(&u->mapping);
        cuda_leave(&scope);
    }
    return r ? cuda_fail(u, r, "taking %llu bytes of memory", (unsigned long long)bytes) : 0;
}

void cuda_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    struct cuda_range *range = cuda_range_find(u, address, bytes);
    if (!range || bytes == 0 || !u->virtual_memory || cuda_enter_again(u->context, &scope))
        return;
    pthread_mutex_lock(&u->mapping);
    uint64_t last = (address + bytes - 1 - range->base) / u->granule;
    for (uint64_t g = (address - range->base) / u->granule; g <= last; g++) {
        uint32_t there = range->granule[g] & CUDA_PAGES_MASK, less = pages_in(u, range, g, address, bytes);
        if (there > less)
            range->granule[g] -= less;
        else if (there)
            empty_locked(u, range, g);
    }
    pthread_mutex_unlock(&u->mapping);
    cuda_leave(&scope);
}

/* ---- the end of ranges --------------------------------------------------- */

/* Inside a visit. */
static void range_free(struct cuda_unit *u, struct cuda_range *range)
{
    pthread_mutex_lock(&u->mapping);
    for (uint64_t g = 0; g < granules_of(u, range); g++)
        if (is_there(range, g))
            empty_locked(u, range, g);
    pthread_mutex_unlock(&u->mapping);
    if (!(u->virtual_memory ? CUDA_UNDO(cuda.unreserve(range->base, range->bytes)) : CUDA_UNDO(cuda.memory_free(range->given))))
        u->host->log(u->host->context, TERRACE_LOG_DEBUG, "cuda:%d keeps a range", u->index);
    free(range);
}

void cuda_release(void *unit, uint64_t base, uint64_t bytes)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    (void)bytes;
    pthread_mutex_lock(&u->lock);
    struct cuda_range **link = &u->ranges, *range;
    while (*link && (*link)->base != base)
        link = &(*link)->next;
    range = *link;
    if (range)
        *link = range->next;
    pthread_mutex_unlock(&u->lock);
    if (!range)
        return;
    if (cuda_enter_again(u->context, &scope)) {
        free(range);
        return;
    }
    range_free(u, range);
    cuda_leave(&scope);
}

void cuda_memory_close(struct cuda_unit *u)
{
    while (u->ranges) {
        struct cuda_range *range = u->ranges;
        u->ranges = range->next;
        if (u->pid == getpid())
            range_free(u, range);
        else
            free(range);
    }
}

int cuda_available(void *unit, uint64_t *bytes)
{
    struct cuda_unit *u = unit;
    struct cuda_scope scope;
    size_t unused, all;
    if (!u->virtual_memory)
        return -TERRACE_ENOTSUP;
    cuda_result r = cuda_enter(u->context, &scope);
    if (r == CUDA_OK) {
        r = cuda.memory_info(&unused, &all);
        cuda_leave(&scope);
    }
    if (r)
        return cuda_error(r);
    pthread_mutex_lock(&u->mapping);
    uint64_t room = u->device_room > u->in_device ? u->device_room - u->in_device : 0;
    *bytes = u->host_room && room < unused ? room : unused;
    *bytes += u->host_room > u->in_host ? u->host_room - u->in_host : 0;
    pthread_mutex_unlock(&u->mapping);
    return 0;
}
