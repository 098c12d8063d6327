/* fill.c - an absent copy gets memory and its bytes.
 *
 * Memory that is given out again still has the bytes of whoever had it before. Where
 * rules forbid these somewhere that the copy may go to, they are cleared first, unless
 * all that will ever be moved is about to be filled.
 *
 * May call: core.h, gate.h, mover.h, registered.h. */
#include <string.h>

#include "gate.h"
#include "mover.h"
#include "registered.h"

bool grant_waits_locked(const struct tier *tier, const struct grant *grant)
{
    return ((grant->commit || grant->give) && gates_bar_locked(tier)) || registered_waits_locked(tier, grant->give);
}

/* Commits the grant's memory without the lock; hands over the extent. */
int grant_fulfil_locked(struct tier *tier, struct grant *grant, struct extent **out)
{
    bool commits = grant->commit;
    int r = 0;
    uint64_t start = 0;
    if (grant->commit || grant->give) {
        bool begun = gates_change_begins_locked(tier);
        registered_leaves_locked(tier, grant->give);
        manager_unlock(tier->manager);
        start = clock_ns();
        r = arena_fulfil(&tier->arena, grant);
        manager_lock(tier->manager);
        gates_change_ended_locked(tier->manager, begun);
        if (r == 0 && commits) /* in memory, nothing is committed for later */
            registered_grows_locked(tier, grant->extent);
    }
    *out = arena_settle(&tier->arena, grant, r);
    if (commits) { /* what was told to ask again, as this was under way, does so */
        tier->manager->releases++;
        lanes_poke_locked(tier->manager);
    }
    if (tier_is_memory(tier) && no_memory(r))
        tier_filled_locked(tier, start);
    return r;
}

void tier_purge_locked(struct tier *tier)
{
    struct grant grant;
    struct extent *none;
    arena_purge(&tier->arena, &grant);
    grant_fulfil_locked(tier, &grant, &none);
}

/* Whether the memory may have bytes that may not go everywhere where the tensor may. */
static bool is_tainted(const struct copy *c)
{
    const struct placement *p = c->tensor->placement;
    return copy_tier(c)->tainted & ~(p ? p->denied : 0);
}

/* How much of the memory moves with the tensor. */
static uint64_t moved_bytes(const struct copy *c)
{
    uint64_t bytes = round_up(c->tensor->bytes, copy_tier(c)->info.page);
    return bytes < c->extent->bytes ? bytes : c->extent->bytes;
}

/* Clears it from a byte on. Gives up the lock. */
static int clear_locked(const struct copy *c, uint64_t from)
{
    static _Alignas(4096) unsigned char zeros[64 << 10];
    struct tier *tier = copy_tier(c);
    uint64_t bytes = moved_bytes(c), address = c->extent->address;
    size_t chunk = tier->info.io_chunk;
    int r = 0;
    if (tier->backend->caps & TERRACE_CAP_CPU) {
        manager_unlock(tier->manager);
        memset((char *)copy_address(c) + from, 0, bytes - from);
        manager_lock(tier->manager);
        return 0;
    }
    for (uint64_t at = from, n; r == 0 && at < bytes; at += n) {
        n = chunk - (address + at) % chunk;
        n = n < sizeof zeros ? n : sizeof zeros;
        n = n < bytes - at ? n : bytes - at;
        r = haul_locked(tier, TERRACE_IO_WRITE, address + at, zeros, n, "zeros");
    }
    return r;
}

/* What others have left and what comes does not cover. Gives up the lock. */
static int clean_locked(const struct copy *c, unsigned mode)
{
    const struct terrace_tensor *t = c->tensor;
    if (mode & TERRACE_OVERWRITE)
        return clear_locked(c, 0);
    bool tail = copy_tier(c)->backend->caps & TERRACE_CAP_CPU; /* elsewhere whole pages come */
    return tail && moved_bytes(c) > t->bytes ? clear_locked(c, t->bytes) : 0;
}

/* Never written: the bytes are zeros. */
static void fill_with_zeros_locked(struct copy *c)
{
    struct terrace *m = copy_manager(c);
    manager_unlock(m);
    memset(copy_address(c), 0, c->tensor->bytes);
    manager_lock(m);
    copy_set_locked(c, COPY_VALID);
    policy_arrived(&copy_tier(c)->policy, &c->node, false);
    copy_settle_locked(c);
}

/* Whether the bytes have to come by way of a host tier, and then that copy. */
static struct copy *way_locked(const struct copy *c)
{
    struct copy *from;
    bool zeros = c->tensor->blank && (copy_tier(c)->backend->caps & TERRACE_CAP_CPU);
    return zeros || transfer_source_locked(c->tensor, copy_tier(c), &from) ? NULL
                                                                          : transfer_way(c->tensor, copy_tier(c));
}

bool fill_leads_on(const struct transfer *x, const struct copy *c)
{
    const struct terrace_tensor *t = c->tensor;
    return x && !x->writeback && !x->error && !x->stale && x->copy != c && !t->onward &&
           transfer_lane(copy_tier(x->copy), copy_tier(c)) != NULL;
}

/* Brings the bytes into memory that has a route to the copy's tier. */
static int pass_locked(const struct copy *c, bool wait, bool ahead, bool onward)
{
    struct terrace_tensor *t = c->tensor;
    uint64_t errors = t->errors;
    struct copy *way;
    while ((way = way_locked(c)) != NULL) {
        int r = 0;
        if (way->state == COPY_ABSENT && !t->transfer)
            r = fill_start_locked(way, TERRACE_READ, wait, ahead);
        if (r < 0)
            return r;
        if (t->errors != errors)
            return tensor_report_locked(t);
        if (way->state == COPY_VALID)
            continue;
        if (!wait)
            return -TERRACE_EAGAIN;
        if (onward && fill_leads_on(t->transfer, c))
            break;
        transfer_hurry_locked(t->transfer);
        manager_wait(t->manager);
    }
    return 0;
}

/* The same. What has come half the way stays there until the other half begins: the
 * room may be wanted by many, and would else be lost again and again. */
static int fill_way_locked(const struct copy *c, bool wait, bool ahead, bool onward)
{
    struct terrace_tensor *t = c->tensor;
    if (!way_locked(c))
        return 0;
    t->passing += wait;
    int r = pass_locked(c, wait, ahead, onward);
    t->passing -= wait;
    copies_settle_locked(t);
    return r;
}

static int fill_locked(struct copy *c, unsigned mode, struct room *want)
{
    struct tier *tier = copy_tier(c);
    bool wait = want->wait, ahead = want->ahead;
    int r = wait || mode & TERRACE_OVERWRITE ? 0 : fill_way_locked(c, false, ahead, false); /* before room is taken */
    if (r == 0)
        r = room_take_locked(tier, want, &c->extent);
    if (r)
        return r;
    c->node.bytes = c->extent->bytes;
    if (is_tainted(c))
        r = clean_locked(c, mode);
    if (r)
        return r;
    if (mode & TERRACE_OVERWRITE) {
        c->hollow = thread_token(); /* until the acquire has succeeded as a whole */
        return want->waited;
    }
    do {
        while (c->tensor->transfer && wait) { /* of another copy: one at a time */
            transfer_hurry_locked(c->tensor->transfer);
            if (want->onward && fill_leads_on(c->tensor->transfer, c)) {
                c->tensor->onward = c;
                transfer_keep_locked(c->tensor->transfer, c);
                return want->waited;
            }
            manager_wait(copy_manager(c));
            want->waited = true;
        }
        r = c->tensor->transfer ? -TERRACE_EAGAIN : fill_way_locked(c, wait, ahead, want->onward);
    } while (r == 0 && c->tensor->transfer);
    if (r)
        return r;
    if (c->tensor->blank && (tier->backend->caps & TERRACE_CAP_CPU))
        fill_with_zeros_locked(c);
    else
        r = transfer_fill_locked(c, ahead);
    return r ? r : want->waited;
}

static int start_locked(struct copy *c, unsigned mode, struct room want)
{
    struct terrace *m = copy_manager(c);
    want.tensor = c->tensor;
    copy_set_locked(c, COPY_FILLING); /* the copy is ours, also while the lock is not */
    c->tensor->busy++;
    int r = fill_locked(c, mode, &want);
    c->tensor->busy--;
    if (r < 0)
        copy_drop_locked(c);
    manager_changed_locked(m);
    return r;
}

int fill_start_locked(struct copy *c, unsigned mode, bool wait, bool ahead)
{
    return start_locked(c, mode, (struct room){.wait = wait, .ahead = ahead});
}

int fill_try_locked(struct copy *c, unsigned mode, bool wait)
{
    return start_locked(c, mode, (struct room){.wait = wait, .once = true});
}

int fill_for_stream_locked(struct copy *c, unsigned mode, bool once)
{
    return start_locked(c, mode, (struct room){.wait = true, .onward = true, .once = once});
}

int fill_ahead_locked(struct copy *c, uint64_t when)
{
    return start_locked(c, TERRACE_READ, (struct room){.ahead = true, .when = when});
}
