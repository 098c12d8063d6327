/* fill.c - an absent copy gets memory and its bytes.
 *
 * May call: core.h, mover.h. */
#include <string.h>

#include "mover.h"

/* Commits the grant's memory without the lock; hands over the extent. */
int grant_fulfil_locked(struct tier *tier, struct grant *grant, struct extent **out)
{
    int r = 0;
    if (grant->commit || grant->give) {
        manager_unlock(tier->manager);
        r = arena_fulfil(&tier->arena, grant);
        manager_lock(tier->manager);
    }
    *out = arena_settle(&tier->arena, grant, r);
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

static int fill_locked(struct copy *c, unsigned mode, bool wait, bool ahead)
{
    struct tier *tier = copy_tier(c);
    struct room want = {.tensor = c->tensor, .wait = wait, .ahead = ahead};
    struct grant grant;
    int r = room_take_locked(tier, &want, &grant);
    if (r == 0)
        r = grant_fulfil_locked(tier, &grant, &c->extent);
    if (r)
        return r;
    c->node.bytes = c->extent->bytes;
    if (mode & TERRACE_OVERWRITE) {
        c->hollow = thread_token(); /* until the acquire has succeeded as a whole */
        return want.waited;
    }
    while (c->tensor->transfer && wait) { /* of another copy: one at a time */
        transfer_hurry_locked(c->tensor->transfer);
        manager_wait(copy_manager(c));
        want.waited = true;
    }
    if (c->tensor->transfer)
        r = -TERRACE_EAGAIN;
    else if (c->tensor->blank)
        fill_with_zeros_locked(c);
    else
        r = transfer_fill_locked(c, ahead);
    return r ? r : want.waited;
}

int fill_start_locked(struct copy *c, unsigned mode, bool wait, bool ahead)
{
    struct terrace *m = copy_manager(c);
    copy_set_locked(c, COPY_FILLING); /* the copy is ours, also while the lock is not */
    c->tensor->busy++;
    int r = fill_locked(c, mode, wait, ahead);
    c->tensor->busy--;
    if (r < 0)
        copy_drop_locked(c);
    manager_changed_locked(m);
    return r;
}
