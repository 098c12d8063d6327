/* hint.c - what callers say about the future: prefetch, demote, step.
 *
 * May call: core.h, mover.h, small.h. */
#include "mover.h"
#include "small.h"
#include "stable.h"

/* The memory tier a hint means: the first that matches. */
static struct tier *memory_tier(struct terrace *m, terrace_tier which)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && tier_matches(m, (int)i, which))
            return &m->tier[i];
    return NULL;
}

static int hint_check(const terrace_tensor *t, terrace_tier which, const char *function)
{
    if (!t)
        return error_set(-TERRACE_EINVAL, "%s: the tensor is NULL", function);
    int r = manager_check(t->manager);
    return r ? r : tier_check(t->manager, which);
}

int terrace_prefetch(terrace_tensor *t, terrace_tier which)
{
    int r = hint_check(t, which, "terrace_prefetch");
    if (r)
        return r;
    struct terrace *m = t->manager;
    struct tier *tier = memory_tier(m, which);
    struct small *s = small_of(t);
    if (!tier)
        return error_set(-TERRACE_ENOTSUP, "'%s' cannot be prefetched to a disk tier",
                         s ? small_name(s) : tensor_name(t));
    t = small_group(t);
    manager_lock(m);
    if (s)
        small_wanted_locked(s);
    bool absent = t->copy[tier - m->tier].state == COPY_ABSENT;
    t->demoted = false;
    if (t->transfer)
        t->transfer->drop = false;
    if (absent && !t->doomed && m->prefetch_limit)
        lane_hint_locked(t, tier);
    manager_unlock(m);
    return 0;
}

/* Bytes that are valid below are dropped from memory, others written down first. */
static void demote_locked(struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    lane_unhint_locked(t);
    for (unsigned i = 0; i < m->tiers; i++) {
        struct copy *c = &t->copy[i];
        struct tier *tier = &m->tier[i];
        if (c->state != COPY_VALID || !tier_is_memory(tier) || (t->flags & TERRACE_ATTR_UNMOVABLE))
            continue;
        if (t->mapped) {
            t->demoted = true; /* once it has been taken back */
            stable_recall_locked(c);
        } else if (!copy_dirty_locked(c)) {
            copy_drop_locked(c);
            m->releases++;
            lanes_poke_locked(m);
        } else {
            policy_remove(&tier->policy, &c->node);
            policy_cool(&c->node);
            if (transfer_writeback_locked(c, PRIORITY_WRITEBACK, true))
                copy_settle_locked(c); /* it stays, the first to leave */
        }
    }
    manager_changed_locked(m);
}

void demote_pending_locked(struct terrace_tensor *t)
{
    if (!t->demoted || t->doomed || t->transfer || t->leaving)
        return;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (t->copy[i].pins || t->copy[i].state == COPY_FILLING)
            return;
    t->demoted = false;
    demote_locked(t);
}

void demote_ask_locked(struct terrace_tensor *t)
{
    if (t->transfer && t->transfer->op == TERRACE_IO_WRITE)
        t->transfer->drop = true;
    t->demoted = true;
    demote_pending_locked(t);
}

int terrace_demote(terrace_tensor *t, terrace_tier which)
{
    int r = hint_check(t, which, "terrace_demote");
    if (r)
        return r;
    struct terrace *m = t->manager;
    bool to_disk = false;
    for (unsigned i = 0; i < m->tiers; i++)
        to_disk |= tier_matches(m, (int)i, which) && !tier_is_memory(&m->tier[i]);
    if (!to_disk) /* nothing is above the host tiers yet: the bytes are there already */
        return 0;
    manager_lock(m);
    if (!t->small || small_demoted_locked(small_of(t)))
        demote_ask_locked(small_group(t));
    manager_unlock(m);
    return 0;
}

int terrace_step(terrace *m)
{
    int r = manager_check(m);
    if (r)
        return r;
    manager_lock(m);
    m->stats.steps++;
    manager_unlock(m);
    return 0;
}
