/* hint.c - what callers say about the future: prefetch, demote, step.
 *
 * May call: core.h, lease.h, mover.h, rules.h, small.h, trace.h. */
#include "lease.h"
#include "mover.h"
#include "prefetch.h"
#include "rules.h"
#include "small.h"
#include "stable.h"
#include "trace.h"

/* The memory tier a hint means: the first that matches. */
static struct tier *memory_tier(struct terrace *m, terrace_tier which)
{
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && tier_matches(m, (int)i, which))
            return &m->tier[i];
    return NULL;
}

/* The one that it means for this tensor, whose first choice goes before speed. Errors:
 * ERULE. */
static int memory_tier_locked(terrace_tensor *t, terrace_tier which, struct tier **out)
{
    const struct terrace *m = t->manager;
    const struct terrace_tensor *moves = small_group(t);
    struct tier *forbidden = NULL;
    for (unsigned k = 0; k < m->tiers; k++) {
        struct tier *tier = tensor_choice(moves, k);
        if (!tier_is_memory(tier) || !tier_matches(m, (int)(tier - m->tier), which))
            continue;
        *out = tier;
        if (tensor_may(moves, tier))
            return 0;
        forbidden = tier;
    }
    struct small *s = small_of(t);
    return forbidden ? rules_forbid(moves->placement, s ? small_name(s) : tensor_name(t), NULL, forbidden) : 0;
}

/* Whether a demotion to a disk has one to go to, or that is not for rules to say. */
static int disk_check_locked(terrace_tensor *t)
{
    const struct terrace *m = t->manager;
    const struct terrace_tensor *moves = small_group(t);
    const struct tier *disk = spill_tier(t->manager);
    struct small *s = small_of(t);
    if (!disk || tensor_stored_locked(moves) || tensor_spill_tier(moves))
        return 0;
    for (unsigned i = 0; i < m->tiers; i++)
        if (!tier_is_memory(&m->tier[i]) && !tensor_may(moves, &m->tier[i]))
            return rules_forbid(moves->placement, s ? small_name(s) : tensor_name(t), NULL, &m->tier[i]);
    return 0;
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
    if (lease_holds(t, tier))
        return 0;
    manager_lock(m);
    r = memory_tier_locked(t, which, &tier);
    if (r) {
        manager_unlock(m);
        return r;
    }
    t = small_group(t);
    lease_close_locked(t);
    if (s) {
        small_wanted_locked(s);
        terrace_tier meant = small_tier_locked(s, which);
        if (m->several && !t->alone && meant != t->home) { /* that is for acquire to decide */
            manager_unlock(m);
            return 0;
        }
        if (m->several && !t->alone)
            tier = &m->tier[meant];
    }
    bool absent = t->copy[tier - m->tier].state == COPY_ABSENT;
    t->demoted = false;
    if (t->transfer)
        t->transfer->drop = false;
    if (absent && !t->doomed && m->prefetch_limit)
        lane_hint_locked(t, tier);
    manager_unlock(m);
    return 0;
}

/* One copy leaves for the goal, at once where that has the bytes. */
static void demote_copy_locked(struct copy *c, struct tier *goal)
{
    struct terrace_tensor *t = c->tensor;
    struct terrace *m = t->manager;
    struct policy *policy = &copy_tier(c)->policy;
    struct copy *way = transfer_lane(copy_tier(c), goal) ? NULL : transfer_way(t, copy_tier(c));
    if (way) { /* and then it is that one's turn */
        goal = copy_tier(way);
        t->demoted = true;
    }
    bool there = tier_is_memory(goal) && t->copy[goal - m->tier].state == COPY_VALID;
    policy_remove(policy, &c->node);
    policy_cool(&c->node);
    int r = there ? 1 : transfer_writeback_locked(c, goal, PRIORITY_WRITEBACK, true);
    if (r > 0) {
        copy_drop_locked(c);
        m->releases++;
        lanes_poke_locked(m);
    }
    copy_settle_locked(c); /* where it stays, it is the first to leave */
}

/* Every copy above the goal leaves, one after the other. */
static void demote_locked(struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    struct tier *goal = &m->tier[t->demote_to];
    lane_unhint_locked(t);
    for (unsigned i = 0; i < t->demote_to && !(t->flags & TERRACE_ATTR_UNMOVABLE); i++) {
        struct copy *c = &t->copy[i];
        if (c->state != COPY_VALID || !tier_is_memory(&m->tier[i]))
            continue;
        bool out = stable_is_out(c);
        if (out || t->transfer)
            t->demoted = true; /* once it has been taken back, or that has ended */
        if (out)
            stable_recall_locked(c);
        else if (!t->transfer)
            demote_copy_locked(c, goal);
    }
    manager_changed_locked(m);
}

void demote_pending_locked(struct terrace_tensor *t)
{
    if (!t->demoted || t->doomed || t->transfer || t->leaving)
        return;
    for (unsigned i = 0; i < t->manager->tiers; i++)
        if (t->copy[i].pins || t->copy[i].uses || t->copy[i].state == COPY_FILLING)
            return;
    t->demoted = false;
    demote_locked(t);
}

void demote_ask_locked(struct terrace_tensor *t, const struct tier *goal)
{
    struct terrace *m = t->manager;
    if (!goal)
        goal = tensor_spill_tier(t);
    if (!goal && tensor_stored_locked(t)) /* then it need not be written anywhere */
        goal = spill_tier(m);
    if (!goal)
        return; /* there is nothing below where it may be */
    if (t->transfer && t->transfer->writeback && t->transfer->lane->tier == goal)
        t->transfer->drop = true;
    t->demoted = true;
    t->demote_to = (unsigned char)(goal - m->tier);
    demote_pending_locked(t);
}

int terrace_demote(terrace_tensor *t, terrace_tier which)
{
    int r = hint_check(t, which, "terrace_demote");
    if (r)
        return r;
    struct terrace *m = t->manager;
    struct tier *goal = memory_tier(m, which); /* NULL: a disk */
    manager_lock(m);
    r = goal ? memory_tier_locked(t, which, &goal) : disk_check_locked(t);
    lease_close_locked(small_group(t));
    if (r == 0 && (!t->small || small_demoted_locked(small_of(t))))
        demote_ask_locked(small_group(t), goal);
    manager_unlock(m);
    return r;
}

int terrace_step(terrace *m)
{
    int r = manager_check(m);
    if (r)
        return r;
    manager_lock(m);
    leases_drain_locked(m);
    m->stats.steps++;
    trace_step_locked(m);
    prefetch_step_locked(m);
    manager_unlock(m);
    manager_decay(m);
    return 0;
}
