/* runtime_pages.c - memory behind addresses of a vendor's runtime, by granules.
 *
 * Where a runtime has virtual memory management a reservation is address space only.
 * Memory comes in granules of 2 MiB, each mapped by itself. The core commits by pages of
 * 4 KiB: a granule is there as long as one page of it is committed. So the device holds
 * a little more than the core counts where many tensors are not multiples of a granule.
 *
 * All but runtime_pages_hold() are called inside a visit.
 * May call: runtime.h. */
#include "runtime.h"

static void *address_of(const struct runtime_range *range, uint64_t g)
{
    return (void *)(uintptr_t)(range->base + g * RUNTIME_GRANULE);
}

static uint64_t granule_at(const struct runtime_range *range, uint64_t address)
{
    return (address - range->base) / RUNTIME_GRANULE;
}

int runtime_pages_reserve(const struct runtime_unit *u, struct runtime_range *range)
{
    const struct runtime_calls *call = u->rt->call;
    int code = call->reserve(u->rt, &range->given, range->bytes);
    if (code == 0 && (uintptr_t)range->given % RUNTIME_GRANULE) {
        (void)RUNTIME_UNDO(call->unreserve(u->rt, range->given));
        code = call->reserve(u->rt, &range->given, range->bytes + RUNTIME_GRANULE);
    }
    return code;
}

bool runtime_pages_hold(const struct runtime_range *range, uint64_t address, uint64_t bytes)
{
    uint64_t last = granule_at(range, address + bytes - 1);
    for (uint64_t g = granule_at(range, address); g <= last; g++)
        if (atomic_load_explicit(&range->granule[g].pages, memory_order_relaxed) == 0)
            return false;
    return true;
}

/* How many pages of [address, address + bytes) lie in a granule. */
static uint32_t pages_in(const struct runtime_range *range, uint64_t g, uint64_t address, uint64_t bytes)
{
    uint64_t from = (uintptr_t)address_of(range, g), to = from + RUNTIME_GRANULE;
    if (from < address)
        from = address;
    if (to > address + bytes)
        to = address + bytes;
    return (uint32_t)((to - from + RUNTIME_PAGE - 1) / RUNTIME_PAGE);
}

static void empty_locked(const struct runtime_unit *u, struct runtime_range *range, uint64_t g)
{
    if (u->rt->call->unmap(u->rt, address_of(range, g), range->granule[g].memory))
        u->host->log(u->host->context, TERRACE_LOG_DEBUG, "%s keeps a granule of memory", u->name);
    range->granule[g].memory = NULL;
}

int runtime_pages_commit(struct runtime_unit *u, struct runtime_range *range, uint64_t address, uint64_t bytes)
{
    uint64_t first = granule_at(range, address), last = granule_at(range, address + bytes - 1), end = first;
    int code = 0;
    pthread_mutex_lock(&u->mapping);
    for (; code == 0 && end <= last; end++)
        if (!range->granule[end].memory) {
            code = u->rt->call->map(u->rt, u->index, address_of(range, end), RUNTIME_GRANULE, &range->granule[end].memory);
            if (code)
                range->granule[end].memory = NULL;
        }
    for (uint64_t g = first; g < end; g++)
        if (code == 0)
            range->granule[g].pages += pages_in(range, g, address, bytes);
        else if (range->granule[g].memory && range->granule[g].pages == 0)
            empty_locked(u, range, g); /* it was not there before */
    pthread_mutex_unlock(&u->mapping);
    return code;
}

void runtime_pages_decommit(struct runtime_unit *u, struct runtime_range *range, uint64_t address, uint64_t bytes)
{
    uint64_t last = granule_at(range, address + bytes - 1);
    pthread_mutex_lock(&u->mapping);
    for (uint64_t g = granule_at(range, address); g <= last; g++) {
        uint32_t there = range->granule[g].pages, less = pages_in(range, g, address, bytes);
        range->granule[g].pages = there > less ? there - less : 0;
        if (there && there <= less)
            empty_locked(u, range, g);
    }
    pthread_mutex_unlock(&u->mapping);
}

int runtime_pages_free(struct runtime_unit *u, struct runtime_range *range)
{
    pthread_mutex_lock(&u->mapping);
    for (uint64_t g = 0; g < range->bytes / RUNTIME_GRANULE; g++)
        if (range->granule[g].memory)
            empty_locked(u, range, g);
    pthread_mutex_unlock(&u->mapping);
    return RUNTIME_UNDO(u->rt->call->unreserve(u->rt, range->given)) ? 0 : -1;
}
