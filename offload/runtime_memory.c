/* runtime_memory.c - a device's memory, and the host memory that its runtime knows.
 *
 * A reservation is an allocation of the runtime's; the core reserves the budget once,
 * and no more, and there is nothing to commit. Or it is addresses, behind which memory
 * is put: see runtime_pages.c.
 *
 * Host memory is registered once for all devices of a runtime, and goes with the last
 * that was told of it.
 *
 * May call: runtime.h, libc. */
#include <stdlib.h>
#include <unistd.h>

#include "runtime.h"

/* ---- ranges -------------------------------------------------------------- */

static struct runtime_range *range_find(struct runtime_unit *u, uint64_t address, uint64_t bytes)
{
    pthread_mutex_lock(&u->lock);
    struct runtime_range *r = u->ranges;
    while (r && address - r->base >= r->bytes)
        r = r->next;
    pthread_mutex_unlock(&u->lock);
    return bytes && r && bytes <= r->bytes - (address - r->base) ? r : NULL;
}

bool runtime_memory_holds(struct runtime_unit *u, uint64_t address, uint64_t bytes)
{
    const struct runtime_range *range = range_find(u, address, bytes);
    return range && (!u->maps || runtime_pages_hold(range, address, bytes));
}

/* Memory at a multiple of the granule: a little more, where there is no other way. */
static int allocate(const struct runtime_unit *u, struct runtime_range *range)
{
    const struct runtime_calls *call = u->rt->call;
    int code = call->allocate(u->rt, &range->given, range->bytes);
    if (code == 0 && (uintptr_t)range->given % RUNTIME_GRANULE) {
        (void)RUNTIME_UNDO(call->release(u->rt, range->given));
        code = call->allocate(u->rt, &range->given, range->bytes + RUNTIME_GRANULE);
    }
    return code;
}

int runtime_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    uint64_t size = (bytes + RUNTIME_GRANULE - 1) / RUNTIME_GRANULE * RUNTIME_GRANULE;
    (void)flags;
    if (bytes == 0 || bytes > UINT64_C(1) << 56)
        return u->host->fail(u->host->context, -TERRACE_ENOTSUP, "%s has no %llu bytes of addresses", u->name,
                             (unsigned long long)bytes);
    uint64_t granules = u->maps ? size / RUNTIME_GRANULE : 0;
    struct runtime_range *range = calloc(1, sizeof *range + granules * sizeof range->granule[0]);
    if (!range)
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no host memory to manage that of %s", u->name);
    range->bytes = size;
    int code = runtime_enter(u, &scope);
    if (code == 0) {
        code = u->maps ? runtime_pages_reserve(u, range) : allocate(u, range);
        runtime_leave(u, &scope);
    }
    if (code) {
        free(range);
        return runtime_fail(u, code, "%s %llu bytes", u->maps ? "reserving" : "allocating", (unsigned long long)size);
    }
    range->base = ((uintptr_t)range->given + RUNTIME_GRANULE - 1) / RUNTIME_GRANULE * RUNTIME_GRANULE;
    pthread_mutex_lock(&u->lock);
    *base = range->base;
    range->next = u->ranges;
    u->ranges = range;
    pthread_mutex_unlock(&u->lock);
    return 0;
}

/* Inside a visit. */
static void range_free(struct runtime_unit *u, struct runtime_range *range)
{
    if (u->maps ? runtime_pages_free(u, range) : !RUNTIME_UNDO(u->rt->call->release(u->rt, range->given)))
        u->host->log(u->host->context, TERRACE_LOG_DEBUG, "%s keeps %llu bytes", u->name,
                     (unsigned long long)range->bytes);
    free(range);
}

void runtime_release(void *unit, uint64_t base, uint64_t bytes)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    (void)bytes;
    pthread_mutex_lock(&u->lock);
    struct runtime_range **link = &u->ranges, *range;
    while (*link && (*link)->base != base)
        link = &(*link)->next;
    range = *link;
    if (range)
        *link = range->next;
    pthread_mutex_unlock(&u->lock);
    if (!range)
        return;
    if (runtime_enter_again(u, &scope)) {
        free(range);
        return;
    }
    range_free(u, range);
    runtime_leave(u, &scope);
}

void runtime_memory_close(struct runtime_unit *u)
{
    while (u->ranges) {
        struct runtime_range *range = u->ranges;
        u->ranges = range->next;
        if (u->pid == getpid())
            range_free(u, range);
        else
            free(range);
    }
}

int runtime_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct runtime_unit *u = unit;
    if (u->pid != getpid())
        return runtime_fail(u, RUNTIME_FORKED, "using memory");
    struct runtime_range *range = range_find(u, address, bytes);
    if (!range)
        return u->host->fail(u->host->context, -TERRACE_EINVAL, "not an address of %s", u->name);
    if (!u->maps)
        return 0;
    struct runtime_scope scope;
    int code = runtime_enter(u, &scope);
    if (code == 0) {
        code = runtime_pages_commit(u, range, address, bytes);
        runtime_leave(u, &scope);
    }
    return code ? runtime_fail(u, code, "taking %llu bytes of memory", (unsigned long long)bytes) : 0;
}

void runtime_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    struct runtime_range *range = u->maps ? range_find(u, address, bytes) : NULL;
    if (!range || runtime_enter_again(u, &scope))
        return;
    runtime_pages_decommit(u, range, address, bytes);
    runtime_leave(u, &scope);
}

int runtime_available(void *unit, uint64_t *bytes)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    size_t unused = 0, all = 0;
    if (!u->maps)
        return -TERRACE_ENOTSUP;
    int code = runtime_enter(u, &scope);
    if (code == 0) {
        code = u->rt->call->memory_info(u->rt, &unused, &all);
        runtime_leave(u, &scope);
    }
    if (code == 0)
        *bytes = unused;
    return runtime_error(u, code);
}

/* ---- host memory --------------------------------------------------------- */

struct runtime_pin {
    struct runtime_pin *next;
    uintptr_t address;
    uint64_t bytes;
    unsigned users;
};

static struct runtime_pin **find_locked(struct runtime *rt, uintptr_t address, uint64_t bytes)
{
    struct runtime_pin **link = &rt->pins;
    while (*link && ((*link)->address != address || (*link)->bytes != bytes))
        link = &(*link)->next;
    return link;
}

static int enter_and_pin(const struct runtime_unit *u, void *address, uint64_t bytes)
{
    struct runtime_scope scope;
    int code = runtime_enter(u, &scope);
    if (code)
        return runtime_error(u, code);
    code = u->rt->call->pin(u->rt, address, bytes);
    runtime_leave(u, &scope);
    int error = runtime_error(u, code);
    return error == -TERRACE_EDEVMEM ? -TERRACE_ENOMEM : error; /* it is host memory that lacks then */
}

int runtime_pin(void *unit, void *address, uint64_t bytes)
{
    struct runtime_unit *u = unit;
    struct runtime *rt = u->rt;
    struct runtime_pin *new = rt->registers ? calloc(1, sizeof *new) : NULL;
    int error = 0;
    if (!new)
        return rt->registers ? -TERRACE_ENOMEM : -TERRACE_ENOTSUP;
    *new = (struct runtime_pin){.address = (uintptr_t)address, .bytes = bytes, .users = 1};
    pthread_mutex_lock(&rt->pinning);
    struct runtime_pin *known = *find_locked(rt, new->address, bytes);
    if (known)
        known->users++;
    else
        error = enter_and_pin(u, address, bytes);
    if (!known && error == 0) {
        new->next = rt->pins;
        rt->pins = new;
        new = NULL;
    }
    pthread_mutex_unlock(&rt->pinning);
    free(new);
    return error;
}

void runtime_unpin(void *unit, void *address, uint64_t bytes)
{
    struct runtime_unit *u = unit;
    struct runtime_scope scope;
    pthread_mutex_lock(&u->rt->pinning);
    struct runtime_pin **link = find_locked(u->rt, (uintptr_t)address, bytes), *p = *link;
    bool last = p && --p->users == 0;
    if (last)
        *link = p->next;
    if (last && runtime_enter_again(u, &scope) == 0) {
        (void)RUNTIME_UNDO(u->rt->call->unpin(u->rt, address));
        runtime_leave(u, &scope);
    }
    pthread_mutex_unlock(&u->rt->pinning);
    if (last)
        free(p);
}
