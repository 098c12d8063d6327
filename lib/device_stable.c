/* device_stable.c - address-stable memory of devices: given out, given back, advised on.
 *
 * A region is a range of device addresses, reserved once, cut into blocks of a granule.
 * A block is near, in the device's memory, or far, in the host's, where the device uses
 * it at the same address and at the speed of the bus: so what does not fit is slow
 * instead of a failure. A new region takes what memory of the device is free, then what
 * memory of the host can be had, for which tensors leave it, then, for want of that, the
 * device's memory that tensors are in.
 *
 * Nothing moves but inside a safepoint, where the program says that no work in its
 * streams uses the memory: device_move.c. All that is noted here is how hot a block is:
 * when it was last said to be needed.
 *
 * Where a device has no virtual memory management its stable memory is a piece of the
 * arena, which does not move, and cannot be more than there is.
 *
 * May call: device_region.h, device_stable.h, lease.h, mover.h, rules.h, staging.h. */
#include "device_stable.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "device_region.h"
#include "lease.h"
#include "mover.h"
#include "rules.h"
#include "staging.h"

bool device_stable_can(const struct tier *tier)
{
    return tier_is_memory(tier) && !(tier->backend->caps & TERRACE_CAP_CPU) && tier->backend->place;
}

static bool is_plain(const struct tier *tier)
{
    return tier->info.flags & TERRACE_UNIT_WHOLE;
}

const char *device_stable_engine_locked(const struct tier *tier)
{
    return tier->manager->device_stable && *device_tier_of(tier)->engine ? device_tier_of(tier)->engine : NULL;
}

/* ---- finding -------------------------------------------------------------- */

static uint64_t region_bytes(const struct device_region *r)
{
    return r->plain ? r->plain->bytes : r->blocks * r->tier->info.granule;
}

static struct device_region *find_locked(const struct terrace *m, const void *p)
{
    struct device_region *r;
    if (m->device_stable)
        LIST_FOREACH(r, &m->device_stable->regions, link)
            if ((uintptr_t)p - r->base < region_bytes(r))
                return r;
    return NULL;
}

bool device_has(struct terrace *m, const void *p)
{
    manager_lock(m);
    bool has = find_locked(m, p) != NULL;
    manager_unlock(m);
    return has;
}

/* ---- rules ---------------------------------------------------------------- */

static int placement_for_locked(const struct device_region *r, struct rules *rules, struct placement **out)
{
    struct subject s = {r->label, r->role, r->bytes, -1};
    int e = rules ? placement_find_locked(r->tier->manager, rules, &s, device_region_label(r), out) : 0;
    if (e || placement_allows(*out, r->tier))
        return e;
    return rules_forbid(*out, device_region_label(r), "where its addresses are", r->tier);
}

static bool has_far(const struct device_region *r)
{
    if (r->sinking)
        return true;
    for (size_t i = 0; i < r->blocks; i++)
        if (r->block[i].at == BLOCK_FAR)
            return true;
    return false;
}

int device_rules_fit_locked(struct terrace *m, struct rules *rules)
{
    struct device_region *r;
    int e = 0;
    if (m->device_stable)
        LIST_FOREACH(r, &m->device_stable->regions, link) {
            struct placement *p = NULL;
            struct tier *host = staging_host(r->tier);
            e = e ? e : placement_for_locked(r, rules, &p);
            if (e == 0 && host && !placement_allows(p, host) && has_far(r))
                e = rules_forbid(p, device_region_label(r), "where blocks of it are; free it, then set the rules", host);
        }
    return e;
}

/* Has the region obey rules, if they allow it where it is. */
static int obey_locked(struct device_region *r, struct rules *rules)
{
    struct placement *p = NULL;
    int e = placement_for_locked(r, rules, &p);
    if (e)
        return e;
    placement_keep(p);
    placement_drop_locked(r->placement);
    r->placement = p;
    return 0;
}

void device_rules_adopt_locked(struct terrace *m, struct rules *rules)
{
    struct device_region *r;
    if (m->device_stable)
        LIST_FOREACH(r, &m->device_stable->regions, link) {
            (void)obey_locked(r, rules); /* that has been found possible */
            device_tier_of(r->tier)->changed = true;
        }
}

/* ---- giving out ----------------------------------------------------------- */

/* Says once what serves the tier's stable memory. */
static void introduce_locked(struct tier *tier)
{
    struct device_tier *d = device_tier_of(tier);
    const struct tier *host = staging_host(tier);
    if (*d->engine)
        return;
    if (is_plain(tier))
        snprintf(d->engine, sizeof d->engine, "memory that does not move, so no more than there is: %.200s",
                 tier->info.engine_reason);
    else
        snprintf(d->engine, sizeof d->engine, "pages that move at safepoints; what does not fit is %s%s",
                 host ? "in " : "refused", host ? host->name : "");
    log_write(&tier->manager->log, is_plain(tier) ? TERRACE_LOG_WARN : TERRACE_LOG_INFO, "stable memory of %s: %s",
              tier->name, d->engine);
}

/* The sentence where neither place has room. */
static int no_room(const struct device_region *r, int e, const char *far)
{
    char near[200], need[BYTES_TEXT];
    snprintf(near, sizeof near, "%s", terrace_last_error());
    return error_set(e, "terrace_malloc: no room for all of %s: %.190s. And in the host's memory: %.190s",
                     bytes_text(r->bytes, need), near, far);
}

/* Memory behind all blocks. */
static int fill_locked(struct device_region *r)
{
    const char *why;
    char far[200] = "";
    size_t at, n = r->blocks;
    int e = device_put_locked(r, 0, &n, BLOCK_NEAR, false);
    at = n;
    if (at < r->blocks && (e == 0 || no_memory(e))) {
        n = r->blocks - at;
        if (device_far_tier(r, &why))
            e = device_put_locked(r, at, &n, BLOCK_FAR, true);
        else
            n = 0;
        snprintf(far, sizeof far, "%s", why ? why : e ? terrace_last_error() : "");
        at += n;
    }
    if (at < r->blocks && e != -TERRACE_EDEVICE) {
        n = r->blocks - at;
        e = device_put_locked(r, at, &n, BLOCK_NEAR, true);
        if (e)
            e = no_room(r, e, far);
    }
    return e;
}

/* Address space. Gives up the lock. */
static int reserve_locked(struct device_region *r)
{
    struct tier *tier = r->tier;
    manager_unlock(tier->manager);
    int e = tier->backend->reserve(tier->unit, r->blocks * tier->info.granule, 0, &r->base);
    manager_lock(tier->manager);
    return e;
}

/* Memory of the arena, cleared. */
static int take_plain_locked(struct device_region *r)
{
    static _Alignas(4096) unsigned char zeros[64 << 10];
    struct tier *tier = r->tier;
    struct terrace_tensor one = {.manager = tier->manager, .bytes = r->bytes, .label = (char *)device_region_label(r),
                                 .placement = r->placement, .alignment = tier->info.page};
    struct room want = {.tensor = &one, .wait = true};
    int e = room_take_locked(tier, &want, &r->plain);
    if (e)
        return e;
    r->base = r->plain->address;
    for (uint64_t at = 0, n; e == 0 && at < r->plain->bytes; at += n) {
        n = tier->info.io_chunk - (r->base + at) % tier->info.io_chunk;
        n = n < sizeof zeros ? n : sizeof zeros;
        n = n < r->plain->bytes - at ? n : r->plain->bytes - at;
        e = haul_locked(tier, TERRACE_IO_WRITE, r->base + at, zeros, n, "zeros");
    }
    if (e)
        arena_free(&tier->arena, r->plain);
    else
        tier->stable += r->plain->bytes;
    return e;
}

static struct device_region *region_new(struct tier *tier, size_t bytes, const terrace_tensor_attr *attr)
{
    size_t blocks = is_plain(tier) ? 0 : (bytes + tier->info.granule - 1) / tier->info.granule;
    struct device_region *r = calloc(1, sizeof *r + blocks * sizeof r->block[0]);
    if (r) {
        r->tier = tier;
        r->bytes = bytes;
        r->blocks = blocks;
        r->role = attr ? attr->role : 0;
        if (attr && attr->label && !(r->label = strdup(attr->label))) {
            free(r);
            r = NULL;
        }
    }
    if (!r)
        error_set(-TERRACE_ENOMEM, "no host memory for what describes %zu bytes of stable memory", bytes);
    return r;
}

static void region_free_locked(struct device_region *r)
{
    placement_drop_locked(r->placement);
    free(r->label);
    free(r);
}

static struct device_stable *stable_get_locked(struct terrace *m)
{
    if (!m->device_stable && (m->device_stable = calloc(1, sizeof *m->device_stable)) != NULL)
        LIST_INIT(&m->device_stable->regions);
    if (!m->device_stable)
        error_set(-TERRACE_ENOMEM, "no host memory");
    return m->device_stable;
}

static void list_locked(struct device_region *r)
{
    struct device_stable *s = r->tier->manager->device_stable;
    s->stamp++;
    for (size_t i = 0; i < r->blocks; i++)
        r->block[i].stamp = s->stamp;
    LIST_INSERT_HEAD(&s->regions, r, link);
}

/* Off the list, when no safepoint has it in its hands; all memory goes. */
static void end_locked(struct device_region *r)
{
    struct tier *tier = r->tier;
    while (device_tier_of(tier)->busy)
        manager_wait(tier->manager);
    LIST_REMOVE(r, link);
    if (!r->plain) {
        device_empty_locked(r);
        return;
    }
    tier->stable -= r->plain->bytes;
    arena_free(&tier->arena, r->plain);
    tier->manager->releases++;
    manager_changed_locked(tier->manager);
    lanes_poke_locked(tier->manager);
}

/* What can never fit has nothing leave for it. */
static int size_check(struct tier *tier, size_t bytes)
{
    const struct tier *host = staging_host(tier);
    char need[BYTES_TEXT], all[BYTES_TEXT], variable[NAME_TEXT];
    uint64_t limit = tier->arena.limit + (host && !is_plain(tier) ? host->arena.limit : 0);
    if (bytes <= limit)
        return 0;
    tier_limit_name(tier, variable);
    return error_set(-TERRACE_EBUDGET, "terrace_malloc: %s are more than the budget of %s%s%s, %s; raise %s",
                     bytes_text(bytes, need), tier->name, limit > tier->arena.limit ? " and that of " : "",
                     limit > tier->arena.limit ? host->name : "", bytes_text(limit, all), variable);
}

/* Everything a region needs; nothing after a failure. */
static int alloc_locked(struct device_region *r)
{
    struct terrace *m = r->tier->manager;
    int e = stable_get_locked(m) ? obey_locked(r, m->rules) : -TERRACE_ENOMEM;
    if (e)
        return e;
    introduce_locked(r->tier);
    e = is_plain(r->tier) ? take_plain_locked(r) : reserve_locked(r);
    if (e)
        return e;
    list_locked(r);
    e = obey_locked(r, m->rules); /* others than before, perhaps */
    if (e == 0 && !r->plain)
        e = fill_locked(r);
    if (e)
        end_locked(r);
    device_tier_of(r->tier)->changed = true;
    return e;
}

void *device_alloc(struct tier *tier, size_t bytes, const terrace_tensor_attr *attr)
{
    struct device_region *r = size_check(tier, bytes) ? NULL : region_new(tier, bytes, attr);
    if (!r)
        return NULL;
    manager_lock(tier->manager);
    int e = alloc_locked(r);
    void *p = e ? NULL : (void *)(uintptr_t)r->base;
    if (e)
        region_free_locked(r);
    manager_unlock(tier->manager);
    return p;
}

/* ---- giving back ---------------------------------------------------------- */

bool device_free(struct terrace *m, void *p)
{
    manager_lock(m);
    struct device_region *r = find_locked(m, p);
    if (r && r->base != (uintptr_t)p) {
        log_write(&m->log, TERRACE_LOG_ERROR, "terrace_free(%p): terrace_malloc() did not give this", p);
    } else if (r) {
        end_locked(r);
        region_free_locked(r);
    }
    manager_unlock(m);
    return r != NULL;
}

void device_stable_close(struct terrace *m)
{
    struct device_region *r, *next;
    if (!m->device_stable)
        return;
    manager_lock(m);
    for (r = LIST_FIRST(&m->device_stable->regions); r; r = next) {
        next = LIST_NEXT(r, link);
        end_locked(r);
        region_free_locked(r);
    }
    free(m->device_stable);
    m->device_stable = NULL;
    manager_unlock(m);
}

/* ---- advice --------------------------------------------------------------- */

/* Whether so many blocks more can be pinned: tensors need some room, too. */
static int pins_check_locked(const struct device_region *r, size_t from, size_t to)
{
    struct tier *tier = r->tier;
    const struct device_region *other;
    const struct copy *c;
    uint64_t held = tier->staging;
    LIST_FOREACH(other, &tier->manager->device_stable->regions, link)
        for (size_t i = 0; other->tier == tier && i < other->blocks; i++)
            held += other->block[i].pins || (other == r && i >= from && i < to) ? tier->info.granule : 0;
    TAILQ_FOREACH(c, &tier_pinned_locked(tier)->pinned, held)
        held += c->extent ? c->extent->bytes : 0;
    if (held <= tier->arena.limit - tier->arena.limit / 8)
        return 0;
    return error_set(-TERRACE_EBUDGET, "terrace_advise: pinning this would leave less than an eighth of the budget of %s",
                     tier->name);
}

static void advise_block(struct device_block *b, int advice, uint64_t stamp)
{
    if (advice == TERRACE_ADVISE_WILLNEED)
        b->stamp = stamp;
    else if (advice == TERRACE_ADVISE_DONTNEED)
        b->stamp = 0;
    else if (advice == TERRACE_ADVISE_PIN)
        b->pins++;
    else
        b->pins -= b->pins > 0;
}

static int advise_locked(struct device_region *r, size_t at, size_t bytes, int advice)
{
    size_t granule = r->tier->info.granule, from = at / granule, to = (at + bytes - 1) / granule + 1;
    int e = advice == TERRACE_ADVISE_PIN && r->blocks ? pins_check_locked(r, from, to) : 0;
    uint64_t stamp = ++r->tier->manager->device_stable->stamp;
    for (size_t i = from; e == 0 && i < to && i < r->blocks; i++)
        advise_block(&r->block[i], advice, stamp);
    device_tier_of(r->tier)->changed = true;
    return e;
}

int device_advise(struct terrace *m, void *p, size_t bytes, int advice, terrace_tier which)
{
    manager_lock(m);
    struct device_region *r = find_locked(m, p);
    size_t at = r ? (uintptr_t)p - r->base : 0;
    int e = 0;
    if (!r)
        e = error_set(-TERRACE_EINVAL, "%p is not in memory of terrace_malloc()", p);
    else if (bytes > region_bytes(r) - at)
        e = error_set(-TERRACE_EINVAL, "terrace_advise: %zu bytes at %p reach past their allocation", bytes, p);
    else if (advice == TERRACE_ADVISE_PIN && !tier_matches(m, (int)(r->tier - m->tier), which))
        e = error_set(-TERRACE_ENOTSUP, "terrace_advise: stable memory of %s can be pinned nowhere else", r->tier->name);
    else if (bytes)
        e = advise_locked(r, at, bytes, advice);
    manager_unlock(m);
    return e;
}
