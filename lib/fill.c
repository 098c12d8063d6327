/* fill.c - an absent copy gets memory and its bytes.
 *
 * May call: core.h, mover.h, rules.h. */
#include <string.h>

#include "mover.h"

/* Commits the grant's memory without the lock; hands over the extent. */
int grant_fulfil_locked(struct tier *tier, struct grant *grant, struct extent **out)
{
    int r = 0;
    uint64_t start = 0;
    if (grant->commit || grant->give) {
        manager_unlock(tier->manager);
        start = clock_ns();
        r = arena_fulfil(&tier->arena, grant);
        manager_lock(tier->manager);
    }
    *out = arena_settle(&tier->arena, grant, r);
    if (tier_is_memory(tier) && no_memory(r))
        tier_filled_locked(tier, start);
    return r;
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

/* Brings the bytes into memory that has a route to the copy's tier. */
static int fill_way_locked(const struct copy *c, bool wait, bool ahead)
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
        transfer_hurry_locked(t->transfer);
        manager_wait(t->manager);
    }
    return 0;
}

static int fill_locked(struct copy *c, unsigned mode, struct room *want)
{
    struct tier *tier = copy_tier(c);
    bool wait = want->wait, ahead = want->ahead;
    int r = wait || mode & TERRACE_OVERWRITE ? 0 : fill_way_locked(c, false, ahead); /* before room is taken */
    if (r == 0)
        r = room_take_locked(tier, want, &c->extent);
    if (r)
        return r;
    c->node.bytes = c->extent->bytes;
    if (mode & TERRACE_OVERWRITE) {
        c->hollow = thread_token(); /* until the acquire has succeeded as a whole */
        return want->waited;
    }
    do {
        while (c->tensor->transfer && wait) { /* of another copy: one at a time */
            transfer_hurry_locked(c->tensor->transfer);
            manager_wait(copy_manager(c));
            want->waited = true;
        }
        r = c->tensor->transfer ? -TERRACE_EAGAIN : fill_way_locked(c, wait, ahead);
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

int fill_ahead_locked(struct copy *c, uint64_t when)
{
    return start_locked(c, TERRACE_READ, (struct room){.ahead = true, .when = when});
}
