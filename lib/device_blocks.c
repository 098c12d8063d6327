/* device_blocks.c - the memory behind a device's stable addresses: charged to the budget
 * of the tier that has it, and placed by the backend.
 *
 * What is in the device's memory counts to the device's budget; what is in the host's to
 * that of the host tier next to the device. Both are charged before memory is taken, and
 * given back after that has gone, so that neither is exceeded, not even for a moment.
 *
 * May call: device_region.h, gate.h, moved.h, mover.h, rules.h, staging.h, the backend's table. */
#include "device_region.h"

#include <stdio.h>

#include "gate.h"
#include "moved.h"
#include "mover.h"
#include "rules.h"
#include "staging.h"

enum { AT_ONCE = 16 }; /* blocks that are charged and moved together */

static uint64_t address_of(const struct device_region *r, size_t i)
{
    return r->base + i * r->tier->info.granule;
}

struct tier *device_far_tier(const struct device_region *r, const char **why)
{
    struct tier *host = staging_host(r->tier);
    const char *refused = device_tier_of(r->tier)->refused;
    *why = !host                                      ? "there is no host tier (TERRACE_TIERS)"
           : *refused                                 ? refused
           : !placement_allows(r->placement, host)    ? "a placement rule forbids it"
                                                      : NULL;
    return *why ? NULL : host;
}

/* ---- charging ------------------------------------------------------------ */

static struct tier *tier_of(const struct device_region *r, int where)
{
    return where == BLOCK_NEAR ? r->tier : staging_host(r->tier);
}

/* Charges at most n blocks to a tier; returns how many. */
static size_t charge_free_locked(struct tier *tier, size_t granule, size_t n)
{
    uint64_t room = room_free_locked(tier) / granule;
    n = n < room ? n : room;
    return n && room_charge_free_locked(tier, n * granule) ? n : 0;
}

/* The same, and others leave for one block at least. */
static int charge_locked(const struct device_region *r, int where, bool evict, size_t *n)
{
    struct tier *tier = tier_of(r, where);
    size_t granule = r->tier->info.granule, free = charge_free_locked(tier, granule, *n);
    if (free || !evict) {
        *n = free;
        return 0;
    }
    struct terrace_tensor one = {.manager = r->tier->manager, .bytes = granule, .label = (char *)device_region_label(r),
                                 .placement = r->placement};
    struct room want = {.tensor = &one, .wait = true};
    int e = room_charge_locked(tier, &want);
    *n = e ? 0 : 1;
    return e;
}

/* ---- placing ------------------------------------------------------------- */

static void count_locked(const struct device_region *r, int where, size_t n, bool more)
{
    struct device_tier *d = device_tier_of(r->tier);
    *(where == BLOCK_NEAR ? &d->near : &d->far) += more ? n : -n;
}

/* n blocks have come to be somewhere, for which that has been charged. */
static void arrived_locked(struct device_region *r, size_t i, size_t n, int where, uint64_t began)
{
    int before = n ? r->block[i].at : BLOCK_NOWHERE;
    for (size_t k = i; k < i + n; k++) {
        r->block[k].at = (unsigned char)where;
        r->block[k].unsure = false;
    }
    count_locked(r, where, n, true);
    if (n == 0 || before == BLOCK_NOWHERE)
        return;
    count_locked(r, before, n, false);
    room_uncharge_locked(tier_of(r, before), n * r->tier->info.granule);
    moved_locked(tier_of(r, before), tier_of(r, where), n * r->tier->info.granule,
                 &(struct move){.label = device_region_label(r), .asked = began, .began = began,
                                .priority = PRIORITY_DEMAND});
}

/* Has the backend place blocks; `done` is how many have come there. Gives up the lock. */
static int place_locked(struct device_region *r, size_t i, size_t n, int where, size_t *done)
{
    struct tier *tier = r->tier;
    uint64_t bytes = 0, granule = tier->info.granule;
    bool begun = gates_change_begins_locked(tier);
    manager_unlock(tier->manager);
    int e = tier->backend->place(tier->unit, address_of(r, i), n * granule,
                                 where == BLOCK_NEAR ? TERRACE_PLACE_UNIT : TERRACE_PLACE_HOST, &bytes);
    manager_lock(tier->manager);
    gates_change_ended_locked(tier->manager, begun);
    *done = bytes / granule;
    return e;
}

/* After a failure: blocks that were somewhere are to be there still. */
static void restore_locked(struct device_region *r, size_t i, size_t n)
{
    size_t done = 0;
    if (n == 0 || r->block[i].at == BLOCK_NOWHERE)
        return;
    int e = place_locked(r, i, n, r->block[i].at, &done);
    for (size_t k = i + done; e && k < i + n; k++)
        r->block[k].unsure = true;
    device_tier_of(r->tier)->changed |= e != 0;
}

static int put_some_locked(struct device_region *r, size_t i, size_t *n, int where, bool evict)
{
    struct device_tier *d = device_tier_of(r->tier);
    struct tier *tier = tier_of(r, where);
    size_t charged = *n, done = 0;
    int e = charge_locked(r, where, evict, &charged);
    uint64_t began = clock_ns();
    *n = 0;
    if (e || charged == 0)
        return e;
    r->sinking += where == BLOCK_FAR;
    if (where == BLOCK_FAR && !placement_allows(r->placement, tier)) /* since a moment ago */
        e = rules_forbid(r->placement, device_region_label(r), "where blocks of it would be", tier);
    else
        e = place_locked(r, i, charged, where, &done);
    r->sinking -= where == BLOCK_FAR;
    if (e == -TERRACE_ENOTSUP && where == BLOCK_FAR)
        snprintf(d->refused, sizeof d->refused, "%s", terrace_last_error());
    arrived_locked(r, i, done, where, began);
    if (e)
        restore_locked(r, i + done, charged - done);
    if (done < charged)
        room_uncharge_locked(tier, (charged - done) * r->tier->info.granule);
    if (no_memory(e))
        tier_filled_locked(tier, began);
    *n = done;
    return e;
}

/* How many blocks from i on are in the same place, of at most n. */
static size_t alike(const struct device_region *r, size_t i, size_t n)
{
    size_t k = 1;
    while (k < n && r->block[i + k].at == r->block[i].at)
        k++;
    return k;
}

int device_put_locked(struct device_region *r, size_t i, size_t *n, int where, bool evict)
{
    size_t most = *n;
    int e = 0;
    for (*n = 0; e == 0 && *n < most;) {
        size_t left = most - *n, some = alike(r, i + *n, left < AT_ONCE ? left : AT_ONCE);
        e = put_some_locked(r, i + *n, &some, where, evict);
        *n += some;
        if (some == 0)
            break;
    }
    return e;
}

int device_put_right_locked(struct device_region *r)
{
    size_t done;
    int e = 0;
    for (size_t i = 0; e == 0 && i < r->blocks; i++)
        if (r->block[i].unsure) {
            e = place_locked(r, i, 1, r->block[i].at, &done);
            r->block[i].unsure = e != 0;
        }
    return e;
}

void device_empty_locked(struct device_region *r)
{
    struct tier *tier = r->tier;
    uint64_t bytes = r->blocks * tier->info.granule;
    size_t n[] = {[BLOCK_NEAR] = 0, [BLOCK_FAR] = 0};
    bool begun = gates_change_begins_locked(tier);
    manager_unlock(tier->manager);
    tier->backend->decommit(tier->unit, r->base, bytes);
    tier->backend->release(tier->unit, r->base, bytes);
    manager_lock(tier->manager);
    gates_change_ended_locked(tier->manager, begun);
    for (size_t i = 0; i < r->blocks; i++)
        n[r->block[i].at]++;
    for (int where = BLOCK_NEAR; where <= BLOCK_FAR; where++)
        if (n[where]) {
            count_locked(r, where, n[where], false);
            room_uncharge_locked(tier_of(r, where), n[where] * tier->info.granule);
        }
    device_tier_of(tier)->changed = true;
}
