/* away.c - blocks of address-stable memory that are used on a slower node.
 *
 * Where a node's memory is short, and another's is next and has room, a block that is
 * mapped does not have to be taken from its place: the kernel moves its pages to the
 * other node under their addresses (the backend's adopt), while the program uses
 * them. They are the other tier's copy then, whose room is taken from its arena; there
 * the pages come to, as to their own arena, when they are taken from their place, to
 * go on to a disk or to have it seen who touches them (notice.c). What is touched comes
 * to the block's own tier, as ever.
 *
 * Where the kernel cannot move all of them, those that it has moved are moved back, and
 * the block leaves in the usual way: taken from its place, and copied.
 *
 * May call: core.h, moved.h, mover.h, notice.h, prefetch.h, region.h,
 * stable.h, the backend's table. */
#include "away.h"

#include <sys/mman.h>

#include "moved.h"
#include "mover.h"
#include "notice.h"
#include "prefetch.h"
#include "region.h"
#include "stable.h"

/* The tier whose node the block's pages can be moved to, NULL: none. */
static struct tier *node_for_locked(struct terrace_tensor *t)
{
    struct copy *c = block_copy(t);
    if (!t->mapped || block_is_away(t) || t->demoted || t->doomed || !copy_dirty_locked(c))
        return NULL;
    struct tier *to = transfer_goal_locked(c);
    return to && tier_is_memory(to) && stable_movable(to) && to->backend->adopt ? to : NULL;
}

static int adopt(const struct tier *tier, const struct terrace_tensor *t)
{
    const terrace_backend *b = tier->backend;
    return b->adopt ? b->adopt(tier->unit, (uintptr_t)block_address(t), t->region->block_bytes) : 0;
}

/* Moves the pages, all or none. Without the lock. */
static int migrate(const struct tier *from, const struct tier *to, const struct terrace_tensor *t)
{
    madvise(copy_address(&t->copy[to - to->manager->tier]), t->region->block_bytes, MADV_DONTNEED);
    int e = adopt(to, t);
    if (e)
        adopt(from, t);
    return e;
}

/* Room in the tier and the pages; the copy is then FILLING. Not where somebody pins the
 * block meanwhile. Gives up the lock. */
static int bring_locked(struct terrace_tensor *t, struct tier *from, struct tier *to)
{
    struct terrace *m = t->manager;
    struct copy *there = &t->copy[to - m->tier];
    struct room want = {.tensor = t, .once = true};
    copy_set_locked(there, COPY_FILLING);
    t->busy++;
    int e = room_take_locked(to, &want, &there->extent);
    if (e == 0) {
        there->node.bytes = there->extent->bytes;
        fork_gate_locked(m);
        moving_locked(m, true);
        manager_unlock(m);
        e = migrate(from, to, t);
        manager_lock(m);
        if (e == 0 && block_copy(t)->pins) {
            e = -TERRACE_EBUSY;
            manager_unlock(m);
            adopt(from, t);
            manager_lock(m);
        }
        moving_locked(m, false);
    }
    t->busy--;
    return e;
}

bool away_go_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    struct copy *c = block_copy(t);
    struct tier *from = copy_tier(c), *to = node_for_locked(t);
    uint64_t asked = moved_clock(m);
    if (!to)
        return false;
    struct copy *there = &t->copy[to - m->tier];
    if (bring_locked(t, from, to)) {
        copy_drop_locked(there);
        return false;
    }
    copy_set_locked(there, COPY_VALID);
    policy_arrived(&to->policy, &there->node, false);
    moved_locked(from, to, t->bytes, &(struct move){.label = tensor_name(t), .asked = asked, .began = asked,
                                                    .priority = PRIORITY_WRITEBACK});
    t->from = there->tier;
    t->leaving = false;
    from->draining -= c->node.bytes;
    c->wrote = true;
    copy_evict_locked(c);
    if (!t->doomed)
        notice_away_locked(s, t);
    prefetch_poke_locked(m);
    manager_changed_locked(m);
    demote_pending_locked(t);
    lanes_poke_locked(m);
    tensor_reap_locked(t);
    return true;
}

void away_return_locked(struct terrace_tensor *t)
{
    struct copy *c = &t->copy[t->from];
    if (c->node.listed) {
        notice_forget_locked(t->manager->stable, t);
        stable_recall_locked(c);
    }
    manager_wait(t->manager);
}

void away_settle(const struct terrace_tensor *t)
{
    adopt(t->region->tier, t);
}
