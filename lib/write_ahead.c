/* write_ahead.c - what will soon have to leave a memory tier is written down before.
 *
 * While memory is short, some of it is kept ready to leave at once. It is not written
 * one by one as it comes up: a lane waits until a good part of what is to be ready is
 * missing, then starts as many write-backs as make up for that. Those are ordered by
 * their places on disk or, where they have none yet, by their next use, and get room
 * in a row (space.c): so neighbours are handed to the disk together, and what is used
 * one after the other is read from one place. On disks whose heads move, and wherever
 * the system joins small neighbours into one request, that saves most of the time.
 *
 * May call: core.h, lease.h, mover.h, prefetch.h, stable.h. */
#include <stdlib.h>

#include "lease.h"
#include "mover.h"
#include "prefetch.h"
#include "stable.h"

enum { TOGETHER = 64 /* write-backs that are ordered at a time */ };

/* The copy to be written next, where nothing is foreseen; several at once. */
static struct policy_node *dirty_on_credit(struct tier *tier, bool begun)
{
    uint64_t ready = arena_room(&tier->arena) + tier_clean_bytes(tier), want = tier->arena.limit / 4;
    want -= begun ? 0 : want / 4;
    if (tier->credit == 0 || ready + tier->draining >= want)
        return NULL;
    struct policy_node *n = policy_dirty(tier_policy_locked(tier));
    return n && n->bytes <= tier->credit ? n : NULL;
}

/* Which of two write-backs comes first: by their places on disk those that have one,
 * then by their next use, or the last where that is all that is known. So what has
 * none yet will lie, and be read, in the order of use. */
static int writeback_compare(const void *a, const void *b)
{
    const struct transfer *x = *(struct transfer *const *)a, *y = *(struct transfer *const *)b;
    const struct extent *at = x->other->extent, *bt = y->other->extent;
    uint64_t xn = x->tensor->item.next, yn = y->tensor->item.next;
    if (at || bt)
        return !at || (bt && at->address > bt->address) ? 1 : -1;
    if (xn != yn)
        return xn > yn ? 1 : -1;
    return x->copy->node.stamp > y->copy->node.stamp ? 1 : -1;
}

/* Orders the last n write-backs that wait. */
static void writebacks_sort_locked(struct lane *lane, unsigned n)
{
    struct transfer_list *queue = &lane->queue[PRIORITY_WRITEBACK];
    struct transfer *list[TOGETHER];
    if (n < 2)
        return;
    for (unsigned i = n; i--;) {
        list[i] = TAILQ_LAST(queue, transfer_list);
        TAILQ_REMOVE(queue, list[i], link);
    }
    qsort(list, n, sizeof *list, writeback_compare);
    for (unsigned i = 0; i < n; i++)
        TAILQ_INSERT_TAIL(queue, list[i], link);
}

void write_ahead_locked(struct lane *lane)
{
    struct terrace *m = lane->tier->manager;
    if (spill_tier(m) != lane->tier)
        return;
    for (unsigned i = 0; i < m->tiers; i++) {
        struct tier *tier = &m->tier[i];
        if (!tier_is_memory(tier) || tier_below(tier))
            continue;
        unsigned begun = 0, queued = 0; /* of those here */
        while (begun < TOGETHER) {
            bool foresees = policy_foresees(&tier->policy) && m->prefetch_limit;
            struct policy_node *n = foresees ? prefetch_dirty_locked(tier, begun) : dirty_on_credit(tier, begun);
            if (!n)
                break;
            struct copy *c = copy_of(n);
            if (c->tensor->failed_at && c->tensor->failed_at == m->failures)
                break; /* it has just failed: leave it to those in need */
            if (stable_is_out(c)) {
                stable_recall_locked(c);
                continue;
            }
            if (transfer_writeback_locked(c, tensor_spill_tier(c->tensor), PRIORITY_WRITEBACK, false))
                break;
            begun++;
            queued += c->tensor->transfer->lane == lane;
            tier->credit -= tier->credit < n->bytes ? tier->credit : n->bytes;
        }
        writebacks_sort_locked(lane, queued);
    }
}
