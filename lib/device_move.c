/* device_move.c - the safepoint: where blocks of a device's stable memory move.
 *
 * The program says that what it has put into a stream so far is all that uses the memory,
 * and waits until the safepoint is over. It waits for that stream, but only where
 * something is to move, and nothing is where nothing has changed since the last time.
 *
 * Which blocks should be near: those that are pinned, then those that were last said to
 * be needed (WILLNEED, or allocated), the latest first, as many as there is room for in
 * the tier's budget beside the tensors that are there. Tensors leave for pinned blocks
 * only; for tensors that found no room since the last safepoint, blocks leave. What will
 * not be needed (DONTNEED) goes down, and stays there until advised otherwise.
 *
 * Blocks go down before others come up, some at a time, so that budgets hold at every
 * moment and little room suffices to exchange many.
 *
 * May call: device_region.h, device_stable.h, mover.h. */
#include <stdlib.h>
#include <unistd.h>

#include "device_region.h"
#include "device_stable.h"
#include "mover.h"

enum { ROUND = 16 }; /* blocks that go one way before some go the other */

/* ---- what should be where ------------------------------------------------- */

struct item {
    struct device_region *region;
    size_t i;
    uint64_t stamp;
    bool pinned, near;
};

static int by_address(const struct item *a, const struct item *b)
{
    return a->region->base != b->region->base ? (a->region->base < b->region->base ? -1 : 1)
                                              : (a->i > b->i) - (a->i < b->i);
}

/* The hottest first; of equals, those that are near. */
static int hotter(const void *first, const void *second)
{
    const struct item *a = first, *b = second;
    if (a->pinned != b->pinned)
        return b->pinned - a->pinned;
    if (a->stamp != b->stamp)
        return a->stamp > b->stamp ? -1 : 1;
    return a->near != b->near ? b->near - a->near : by_address(a, b);
}

static int colder(const void *first, const void *second)
{
    const struct item *a = first, *b = second;
    return a->stamp != b->stamp ? (a->stamp < b->stamp ? -1 : 1) : by_address(a, b);
}

/* Splits blocks, sorted by heat, into those that are to come and to leave, each list in
 * the order in which they should. `room`: how many can be near. */
static void choose(const struct item *all, size_t n, size_t room, struct item *up, size_t *ups, struct item *down,
                   size_t *downs)
{
    *ups = *downs = 0;
    for (size_t k = 0; k < n; k++) {
        bool wanted = all[k].pinned || (k < room && all[k].stamp);
        if (wanted && !all[k].near)
            up[(*ups)++] = all[k];
        else if (!wanted && all[k].near)
            down[(*downs)++] = all[k];
    }
    qsort(down, *downs, sizeof *down, colder);
}

/* How many blocks of the tier could be near, beside all else that is in its budget. */
static size_t room_locked(struct tier *tier)
{
    uint64_t held = tier->arena.used + tier->arena.pending - tier->stable + tier->wanted + tier->lacked;
    uint64_t all = room_free_locked(tier) + tier->arena.used + tier->arena.pending;
    return all > held ? (all - held) / tier->info.granule : 0;
}

static size_t list_locked(struct tier *tier, struct item *all)
{
    struct device_region *r;
    size_t n = 0;
    LIST_FOREACH(r, &tier->manager->device_stable->regions, link)
        for (size_t i = 0; r->tier == tier && i < r->blocks; i++)
            if (r->block[i].at != BLOCK_NOWHERE)
                all[n++] = (struct item){r, i, r->block[i].stamp, r->block[i].pins > 0, r->block[i].at == BLOCK_NEAR};
    return n;
}

/* ---- moving ---------------------------------------------------------------- */

/* What has no room where it should go stays where it is: no failure, unless it is pinned. */
static bool is_no_room(int e)
{
    return e == -TERRACE_EBUDGET || e == -TERRACE_ENOSPC || e == -TERRACE_ERULE || e == -TERRACE_ENOTSUP || no_memory(e);
}

/* How many blocks from the first on follow each other, and are of one kind. */
static size_t run_of(const struct item *list, size_t n)
{
    size_t k = 1;
    while (k < n && k < ROUND && list[k].region == list->region && list[k].i == list->i + k &&
           list[k].pinned == list->pinned)
        k++;
    return k;
}

/* Moves the first blocks of a list, a round of them; `n` is how many of the list are done
 * with. 1: the others have no room. */
static int move_some_locked(const struct item *list, size_t *n, int where)
{
    size_t left = *n, moved = 0;
    int e = 0;
    while (e == 0 && moved < ROUND && moved < left) {
        size_t some = run_of(list + moved, left - moved), k = some;
        bool evict = where == BLOCK_FAR || list[moved].pinned;
        const char *why;
        if (where == BLOCK_FAR && !device_far_tier(list[moved].region, &why)) {
            moved += some; /* it stays */
            continue;
        }
        e = device_put_locked(list[moved].region, list[moved].i, &k, where, evict);
        moved += k;
        e = e ? e : k < some;
    }
    *n = moved;
    return e;
}

/* Carries out what was chosen. Errors: of what is pinned and finds no room; of drivers. */
static int exchange_locked(const struct item *up, size_t ups, const struct item *down, size_t downs)
{
    int e = 0;
    while (e == 0 && (ups || downs)) {
        size_t n = downs;
        int full = downs ? move_some_locked(down, &n, BLOCK_FAR) : 0;
        down += n;
        downs = full ? 0 : downs - n;
        e = full < 0 && !is_no_room(full) ? full : 0;
        if (e || !ups)
            continue;
        n = ups;
        full = move_some_locked(up, &n, BLOCK_NEAR);
        up += n;
        ups -= n;
        if (full < 0 && (!is_no_room(full) || up->pinned))
            e = full;
        else if (full && downs == 0)
            ups = 0;
    }
    return e;
}

/* All blocks to where they should be. */
static int sort_locked(struct tier *tier)
{
    struct device_tier *d = device_tier_of(tier);
    struct device_region *r;
    int e = 0;
    d->changed = false;
    LIST_FOREACH(r, &tier->manager->device_stable->regions, link)
        e = e || r->tier != tier ? e : device_put_right_locked(r);
    size_t most = d->near + d->far, ups, downs;
    struct item *all = e || !most ? NULL : calloc(3 * most, sizeof *all);
    if (e || !most) {
        d->changed = e != 0;
        return e;
    }
    if (!all)
        return error_set(-TERRACE_ENOMEM, "no host memory to sort %zu blocks of stable memory", most);
    size_t n = list_locked(tier, all);
    qsort(all, n, sizeof *all, hotter);
    choose(all, n, room_locked(tier), all + most, &ups, all + 2 * most, &downs);
    e = exchange_locked(all + most, ups, all + 2 * most, downs);
    free(all);
    d->room = room_locked(tier);
    tier->lacked = 0;
    d->changed |= e != 0;
    return e;
}

/* ---- the safepoint ---------------------------------------------------------- */

/* Whether anything may have to move. */
static bool is_due_locked(struct tier *tier)
{
    const struct device_tier *d = device_tier_of(tier);
    return d->changed || (d->near && tier->wanted + tier->lacked) || (d->far && room_locked(tier) > d->room);
}

/* Waits on the host until what is in a stream by now has been done. */
static int stream_ends(const struct tier *tier, void *stream)
{
    void *event;
    useconds_t pause = 10;
    if (stream == TERRACE_HOST_SYNC || !tier->backend->record)
        return 0;
    int e = tier->backend->record(tier->unit, stream, &event);
    if (e)
        return e;
    while ((e = tier->backend->passed(tier->unit, event)) == 0) {
        usleep(pause);
        pause = pause < 200 ? pause * 2 : pause;
    }
    tier->backend->forget(tier->unit, event);
    return e < 0 ? e : 0;
}

int device_safepoint(struct tier *tier, void *stream)
{
    struct terrace *m = tier->manager;
    int e = 0;
    manager_lock(m);
    while (m->device_stable && device_tier_of(tier)->busy)
        manager_wait(m);
    if (m->device_stable && is_due_locked(tier)) {
        device_tier_of(tier)->busy = true;
        manager_unlock(m);
        e = stream_ends(tier, stream);
        manager_lock(m);
        e = e ? e : sort_locked(tier);
        device_tier_of(tier)->busy = false;
        manager_changed_locked(m);
    }
    manager_unlock(m);
    return e;
}
