/* decay.c - memory that is not needed any more goes back to where it came from.
 *
 * Freed memory stays with its tier for the next tensor. What has not been needed
 * for a period is given back to the system, or the disk, so that a process whose
 * peak is over shrinks. There is no thread for this: the calls that end a step or
 * destroy a tensor look at the clock, and once in a period one of them does it.
 *
 * May call: core.h, live.h, small.h. */
#include "core.h"
#include "live.h"
#include "small.h"

static const uint64_t PERIOD_NS = 1000000000;

static void tier_decay(struct tier *tier)
{
    struct grant grant;
    struct extent *none;
    manager_lock(tier->manager);
    arena_decay(&tier->arena, &grant);
    if (grant_waits_locked(tier, &grant)) /* the next time, as nobody is to wait for this */
        arena_undo(&tier->arena, &grant);
    else
        grant_fulfil_locked(tier, &grant, &none);
    manager_unlock(tier->manager);
}

void manager_decay(struct terrace *m)
{
    uint64_t due = atomic_load_explicit(&m->decay_at, memory_order_relaxed), now = clock_ns();
    if (now < due || !atomic_compare_exchange_strong(&m->decay_at, &due, now + PERIOD_NS))
        return;
    smalls_trim(m);
    for (unsigned i = 0; i < m->tiers; i++)
        tier_decay(&m->tier[i]);
    manager_lock(m);
    live_renew_locked(m); /* where no lane does */
    manager_unlock(m);
}
