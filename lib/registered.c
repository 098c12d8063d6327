/* registered.c - hot memory of host tiers, made known to those who copy to and from it.
 *
 * A driver copies at the bus's full speed, and without waiting, only what it knows to
 * stay where it is. Making memory known takes about as long as copying it a few times,
 * so that is done for granules that a device has used twice, and not while others wait:
 * by the thread of a device's lane when it has nothing to do, or seldom. A granule stays
 * known, whoever has its memory, until that is given back to the system. It is locked in
 * memory meanwhile, so RLIMIT_MEMLOCK is kept to; and being memory of the tier, it is in
 * the budget.
 *
 * Only whole granules are made known that have memory behind all of them, each once, to
 * every backend whose copies may lie in several such ranges (TERRACE_UNIT_RANGES).
 * A granule may be shared by several tensors, so it is not forgotten before the copies of
 * all of them have ended. Neither is done while a stream waits at a gate.
 *
 * Stable memory has its pages moved, which is refused for such memory: once there is
 * some, nothing is made known any more, and what was is not.
 *
 * May call: registered.h, gate.h, mover.h. */
#include "registered.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "gate.h"
#include "mover.h"

static const uint64_t SELDOM_NS = 20 * 1000000; /* where the lane has something to do */

enum state { COLD, WARM, HOT /* to be made known */, BUSY /* just being so */, KNOWN };

struct granule {
    uint32_t committed; /* bytes of it */
    uint16_t by;        /* bit per tier whose backend knows it */
    uint16_t copies;    /* under way, to or from any part of it */
    unsigned char state;
    bool locked;
};

struct registered {
    struct granule *granule[ZONES];
    size_t granules[ZONES], at[ZONES]; /* at: where the search for hot ones goes on */
    uint64_t hot;      /* how many there are */
    uint64_t bytes;    /* known, or just becoming so */
    uint64_t renewed;  /* when one was made known last */
    uint16_t out;      /* bit per tier whose backend has refused one */
    bool full;         /* no more may be locked */
    bool refused;      /* one of the latter two */
    char why[200];
};

/* ---- granules ------------------------------------------------------------ */

static size_t size_of(const struct tier *tier)
{
    return tier->arena.zone[ZONE_GRANULES].unit;
}

static void *address_of(const struct tier *tier, unsigned zone, size_t g)
{
    return (void *)(uintptr_t)(tier->arena.zone[zone].base + g * size_of(tier));
}

/* The granules that an extent has a part of: from *first to before the result. */
static size_t span(const struct tier *tier, const struct extent *e, size_t *first)
{
    uint64_t base = tier->arena.zone[e->zone].base;
    *first = (e->address - base) / size_of(tier);
    return (e->address + e->bytes - 1 - base) / size_of(tier) + 1;
}

/* How many bytes of a granule belong to an extent. */
static uint32_t part(const struct tier *tier, const struct extent *e, size_t g)
{
    uint64_t from = (uintptr_t)address_of(tier, e->zone, g), to = from + size_of(tier);
    from = from > e->address ? from : e->address;
    to = to < e->address + e->bytes ? to : e->address + e->bytes;
    return (uint32_t)(to - from);
}

/* A hot one has memory behind all of it, as has one that is known. */
static void set_locked(struct registered *r, struct granule *g, enum state state)
{
    r->hot += (uint64_t)(state == HOT) - (uint64_t)(g->state == HOT);
    g->state = (unsigned char)state;
}

void registered_copies_locked(const struct copy *host)
{
    struct tier *tier = copy_tier(host);
    size_t g, end;
    for (end = tier->registered ? span(tier, host->extent, &g) : 0; end && g < end; g++)
        tier->registered->granule[host->extent->zone][g].copies++;
}

void registered_copied_locked(const struct copy *host)
{
    struct tier *tier = copy_tier(host);
    struct registered *r = tier->registered;
    size_t g, end;
    for (end = r ? span(tier, host->extent, &g) : 0; end && g < end; g++) {
        struct granule *x = &r->granule[host->extent->zone][g];
        x->copies--;
        if (host->tensor->region || host->tensor->slab)
            continue;
        if (x->state == COLD || (x->state == WARM && x->committed == size_of(tier)))
            set_locked(r, x, (enum state)(x->state + 1));
    }
}

void registered_grows_locked(struct tier *tier, const struct extent *e)
{
    size_t g, end;
    if (!tier->registered)
        return;
    for (end = span(tier, e, &g); g < end; g++)
        tier->registered->granule[e->zone][g].committed += part(tier, e, g);
}

/* ---- making them known --------------------------------------------------- */

static bool takes(const struct tier *tier)
{
    return tier->backend->pin && tier->backend->unpin && tier->info.flags & TERRACE_UNIT_RANGES;
}

/* Locks a granule and makes it known; without the lock. 0: to nobody. */
static uint16_t make_known(struct tier *tier, struct granule *g, void *address, uint16_t out, char *why, size_t len)
{
    const struct terrace *m = tier->manager;
    uint16_t by = 0;
    g->locked = mlock(address, size_of(tier)) == 0;
    if (!g->locked) {
        snprintf(why, len, "mlock: %s (ulimit -l)", strerror(errno));
        return 0;
    }
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct tier *other = &m->tier[i];
        int r = !takes(other) || out >> i & 1 ? -TERRACE_ENOTSUP : other->backend->pin(other->unit, address, size_of(tier));
        if (r == 0)
            by |= (uint16_t)(1u << i);
        else if (takes(other) && !(out >> i & 1) && tier_is_memory(other)) /* a ring has few places */
            snprintf(why, len, "%s: %s", other->name, terrace_strerror(r));
    }
    if (!by)
        munlock(address, size_of(tier));
    g->locked = by != 0;
    return by;
}

static void make_unknown(const struct tier *tier, struct granule *g, void *address)
{
    const struct terrace *m = tier->manager;
    for (unsigned i = 0; i < m->tiers; i++)
        if (g->by >> i & 1)
            m->tier[i].backend->unpin(m->tier[i].unit, address, size_of(tier));
    if (g->locked)
        munlock(address, size_of(tier));
}

static uint16_t takers(const struct terrace *m)
{
    uint16_t all = 0;
    for (unsigned i = 0; i < m->tiers; i++)
        all |= (uint16_t)((unsigned)takes(&m->tier[i]) << i);
    return all;
}

static void renew_locked(struct tier *tier, unsigned zone, size_t i)
{
    struct registered *r = tier->registered;
    struct terrace *m = tier->manager;
    struct granule *g = &r->granule[zone][i];
    char why[sizeof r->why] = "";
    uint16_t out = r->out;
    set_locked(r, g, BUSY);
    r->bytes += size_of(tier);
    m->changes++; /* no stream begins to wait meanwhile */
    manager_unlock(m);
    uint16_t by = make_known(tier, g, address_of(tier, zone, i), out, why, sizeof why);
    manager_lock(m);
    m->changes--;
    g->by = by;
    r->renewed = clock_ns();
    r->bytes -= by ? 0 : size_of(tier);
    r->full |= by == 0;
    r->out |= by ? (uint16_t)(takers(m) & ~by) : 0;
    set_locked(r, g, by ? KNOWN : WARM);
    if (*why && !r->refused) {
        r->refused = true;
        memcpy(r->why, why, sizeof why);
        log_write(&m->log, TERRACE_LOG_INFO, "%s: not all memory that devices use often is registered: %s", tier->name,
                  why);
    }
    manager_changed_locked(m);
}

/* A hot granule that nobody copies just now; false: there is none. */
static bool find_locked(struct registered *r, unsigned *zone, size_t *g)
{
    for (*zone = 0; *zone < ZONES; ++*zone)
        for (size_t n = 0; n < r->granules[*zone]; n++) {
            *g = r->at[*zone]++ % r->granules[*zone];
            if (r->granule[*zone][*g].state == HOT && r->granule[*zone][*g].copies == 0)
                return true;
        }
    return false;
}

static bool lane_is_idle(const struct lane *lane)
{
    bool idle = lane->in_flight == 0;
    for (int q = 0; q < PRIORITIES; q++)
        idle = idle && TAILQ_EMPTY(&lane->queue[q]) && TAILQ_EMPTY(&lane->raws[q]);
    return idle;
}

int64_t registered_renew_locked(struct lane *lane)
{
    struct terrace *m = lane->tier->manager;
    if (!registered_gains(lane->tier) || m->gates || m->stable)
        return -1;
    for (unsigned i = 0; i < m->tiers; i++) {
        struct registered *r = m->tier[i].registered;
        unsigned zone;
        size_t g;
        if (!r || !r->hot || r->full)
            continue;
        uint64_t since = clock_ns() - r->renewed;
        if (!lane_is_idle(lane) && since < SELDOM_NS)
            return (int64_t)(SELDOM_NS - since);
        if (find_locked(r, &zone, &g)) {
            renew_locked(&m->tier[i], zone, g);
            return 0;
        }
    }
    return -1;
}

/* ---- making them unknown ------------------------------------------------- */

/* It is neither to be changed while it becomes known, nor while that is made use of. */
static bool must_wait(const struct granule *g)
{
    return g->state == BUSY || (g->state == KNOWN && g->copies);
}

bool registered_waits_locked(const struct tier *tier, const struct extent *list)
{
    const struct registered *r = tier->registered;
    size_t g, end;
    for (const struct extent *e = r ? list : NULL; e; e = e->next)
        for (end = span(tier, e, &g); g < end; g++)
            if (must_wait(&r->granule[e->zone][g]))
                return true;
    return false;
}

static void forget_locked(struct tier *tier, unsigned zone, size_t i)
{
    struct registered *r = tier->registered;
    struct granule *g = &r->granule[zone][i], was;
    while (must_wait(g))
        manager_wait(tier->manager);
    was = *g;
    set_locked(r, g, COLD);
    if (was.state != KNOWN)
        return;
    g->by = 0;
    g->locked = false;
    r->bytes -= size_of(tier);
    r->full = false; /* there is room for another */
    manager_unlock(tier->manager);
    make_unknown(tier, &was, address_of(tier, zone, i));
    manager_lock(tier->manager);
}

void registered_leaves_locked(struct tier *tier, const struct extent *list)
{
    struct registered *r = tier->registered;
    size_t g, end;
    for (const struct extent *e = r ? list : NULL; e; e = e->next)
        for (end = span(tier, e, &g); g < end; g++) {
            r->granule[e->zone][g].committed -= part(tier, e, g);
            forget_locked(tier, e->zone, g);
        }
}

static void forgo_locked(struct tier *tier)
{
    struct registered *r = tier->registered;
    for (unsigned zone = 0; r && zone < ZONES; zone++)
        for (size_t g = 0; g < r->granules[zone]; g++)
            if (r->granule[zone][g].state != COLD)
                forget_locked(tier, zone, g);
}

void registered_forgo_locked(struct terrace *m)
{
    for (unsigned i = 0; i < m->tiers; i++) {
        bool waits = gates_change_begins_locked(&m->tier[i]);
        forgo_locked(&m->tier[i]);
        gates_change_ended_locked(m, waits);
    }
}

/* ---- opening and closing ------------------------------------------------- */

static struct registered *registered_new(const struct tier *tier)
{
    struct registered *r = calloc(1, sizeof *r);
    for (unsigned z = 0; r && z < ZONES; z++) {
        r->granules[z] = tier->arena.zone[z].bytes / size_of(tier);
        r->granule[z] = calloc(r->granules[z] + 1, sizeof(struct granule));
        if (!r->granule[z]) {
            for (z = 0; z < ZONES; z++)
                free(r->granule[z]);
            free(r);
            return NULL;
        }
    }
    return r;
}

void registered_open(struct terrace *m)
{
    bool gains = false;
    for (unsigned i = 0; i < m->tiers; i++)
        gains |= registered_gains(&m->tier[i]);
    for (unsigned i = 0; gains && i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && m->tier[i].backend->caps & TERRACE_CAP_CPU)
            m->tier[i].registered = registered_new(&m->tier[i]);
}

void registered_close(struct terrace *m)
{
    manager_lock(m);
    for (unsigned i = 0; i < m->tiers; i++)
        forgo_locked(&m->tier[i]);
    manager_unlock(m);
    for (unsigned i = 0; i < m->tiers; i++) {
        struct registered *r = m->tier[i].registered;
        for (unsigned z = 0; r && z < ZONES; z++)
            free(r->granule[z]);
        free(r);
        m->tier[i].registered = NULL;
    }
}

uint64_t registered_bytes(const struct tier *tier)
{
    return tier->registered ? tier->registered->bytes : 0;
}

const char *registered_refused(const struct tier *tier)
{
    return tier->registered && tier->registered->refused ? tier->registered->why : NULL;
}
