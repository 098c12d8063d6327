/* mapped_charge.c - what mapped memory is charged to the host tier: a quarter of the
 * budget for certain, more while nobody else needs it.
 *
 * May call: mapped_inside.h. */
#include "mapped_inside.h"

/* Gives back what the tier has cached, so that it can be charged. */
static void purge_locked(struct tier *tier)
{
    struct grant grant;
    struct extent *none;
    arena_purge(&tier->arena, &grant);
    grant_fulfil_locked(tier, &grant, &none);
}

bool mapped_charge_locked(struct tier *tier, uint64_t bytes)
{
    struct arena *a = &tier->arena;
    if (bytes > a->limit)
        return false;
    if (a->committed > a->limit - bytes && a->used + a->pending <= a->limit - bytes)
        purge_locked(tier);
    return arena_charge(a, bytes);
}

bool mapped_yield_locked(struct tier *tier, uint64_t bytes)
{
    struct mapped *e = tier->manager->mapped;
    uint64_t least = tier->arena.limit / 4, *charge = e ? &e->charge[tier - tier->manager->tier] : NULL;
    if (!e || *charge <= least)
        return false;
    uint64_t give = bytes < *charge - least ? bytes : *charge - least;
    *charge -= give;
    arena_uncharge(&tier->arena, give);
    atomic_store(&e->wishes, true);
    return true;
}

int mapped_charge_for_certain(struct tier *tier, uint64_t bytes)
{
    struct terrace *m = tier->manager;
    terrace_tensor_attr attr = {.size = sizeof attr, .label = "the window of stable memory"};
    terrace_tier index = (terrace_tier)(tier - m->tier);
    for (int attempt = 0;; attempt++) {
        terrace_tensor *t;
        manager_lock(m);
        bool done = mapped_charge_locked(tier, bytes);
        manager_unlock(m);
        if (done)
            return 0;
        void *p;
        int r = attempt == 10 ? error_set(-TERRACE_EBUDGET, "no room in %s for %llu bytes of stable memory",
                                          tier->name, (unsigned long long)bytes)
                              : terrace_tensor_create(m, bytes, &attr, &t);
        if (r)
            return r;
        r = terrace_acquire(t, index, TERRACE_OVERWRITE, NULL, &p, NULL);
        if (r == 0)
            terrace_release(t, p, NULL);
        terrace_tensor_destroy(t);
        if (r)
            return r;
    }
}

/* What the tier is to hold in all: the regions, but leaving others a sixteenth. */
static uint64_t charge_wanted(const struct mapped *e, const struct tier *tier)
{
    uint64_t sum = 0, most = tier->arena.limit - tier->arena.limit / 16;
    struct mapping *r;
    LIST_FOREACH(r, &e->regions, link)
        sum += r->tier == tier ? r->bytes : 0;
    return (sum < most ? sum : most) / PAGE * PAGE;
}

uint64_t mapped_charge_adjust(struct mapped *e, struct tier *tier)
{
    uint64_t want = charge_wanted(e, tier), *charge = &e->charge[tier - tier->manager->tier], have;
    manager_lock(tier->manager);
    if (*charge > want) {
        arena_uncharge(&tier->arena, *charge - want);
        *charge = want;
    } else if (*charge < want && tier->wanted == 0) {
        uint64_t used = tier->arena.used + tier->arena.pending, more = want - *charge;
        uint64_t room = used < tier->arena.limit ? tier->arena.limit - used : 0;
        room = room > tier->arena.limit / 16 ? room - tier->arena.limit / 16 : 0;
        more = (more < room ? more : room) / PAGE * PAGE;
        if (more && mapped_charge_locked(tier, more))
            *charge += more;
    }
    have = *charge;
    manager_unlock(tier->manager);
    return have;
}
