/* small_move.c - small tensors where several tiers are in memory: they leave their
 * group for one that is used on another tier, or for one of their own.
 *
 * May call: core.h, rules.h, small_inside.h. */
#include <stdlib.h>
#include <string.h>

#include "rules.h"
#include "small_inside.h"

terrace_tier small_tier_locked(const struct small *s, terrace_tier which)
{
    const struct terrace_tensor *g = s->group;
    return !g->alone && tier_matches(s->manager, g->home, which) ? g->home : which;
}

bool small_rehome_locked(const struct small *s, unsigned tier, uint32_t uses)
{
    struct terrace_tensor *g = s->group;
    struct terrace *m = s->manager;
    const struct small *other;
    uint32_t busy = 0;
    if (g->alone || g->home == tier)
        return true;
    for (unsigned i = 0; i < m->tiers; i++)
        if (g->copy[i].pins)
            return false;
    LIST_FOREACH(other, &g->smalls, of_group) {
        if (other->moving)
            return false;
        busy += other->busy;
    }
    if (busy != uses || g->busy != uses || !home_possible(&m->tier[tier]))
        return false;
    g->home = (unsigned char)tier;
    m->smalls->latest = (unsigned char)tier;
    return true;
}

/* The tier on which its group cannot serve it; -1: it can, or nothing does. */
static int elsewhere_locked(const struct small *s, terrace_tier which)
{
    const struct terrace *m = s->manager;
    if (s->group->alone || tier_matches(m, s->group->home, which))
        return -1;
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_is_memory(&m->tier[i]) && tier_matches(m, (int)i, which) && tensor_may(s->group, &m->tier[i]))
            return (int)i;
    return -1; /* or the rules forbid it, which acquire is to say */
}

/* Waits until nobody's use of the slice that is, or will be, left excludes this
 * one, and no other thread moves it. */
static int exclusion_wait_locked(const struct small *s, terrace_tier which, unsigned mode)
{
    struct terrace *m = s->manager;
    for (;;) {
        int to = elsewhere_locked(s, which);
        bool writes = mode & (TERRACE_WRITE | TERRACE_OVERWRITE);
        bool excluded = (to >= 0 && s->pins && (writes || s->writes)) || (s->left && writes);
        if (s->doomed || (!excluded && (to < 0 || !s->moving)))
            return 0;
        const struct terrace_tensor *g = s->left ? s->left->group : s->group;
        bool own = excluded && copy_pinned_by_caller(&g->copy[g->home]);
        if (excluded && (own || !(mode & TERRACE_WAIT)))
            return error_set(-TERRACE_EBUSY, "'%s' is acquired on %s%s, which excludes this use elsewhere",
                             small_name(s), m->tier[g->home].name, s->writes ? " for writing" : "");
        if (mode & TERRACE_NOWAIT)
            return error_set(-TERRACE_EAGAIN, "'%s' is on its way; ask again", small_name(s));
        manager_wait(m);
    }
}

/* A group of its own for one tensor. NULL: no host memory. */
static struct terrace_tensor *alone_new_locked(const struct small *s)
{
    struct terrace_tensor *g = tensor_for_group(s->manager, s->bytes, s->group->placement);
    if (g) {
        g->alone = true;
        g->home = s->group->home;
        g->busy++; /* nothing is in it yet */
    }
    return g;
}

static void join_alone_locked(struct small *s, struct terrace_tensor *g)
{
    g->busy--;
    s->group = g;
    s->offset = 0;
    small_link_locked(s);
}

/* One that was never written takes another slice, where the tier has groups. */
static int move_blank(struct small *s, unsigned tier)
{
    struct terrace *m = s->manager;
    struct smalls *a = m->smalls;
    manager_lock(m);
    struct placement *p = placement_keep(s->group->placement);
    manager_unlock(m);
    struct home *h = small_home_get(a, tier, p);
    size_t alignment = (size_t)1 << s->align;
    uint64_t address = h ? small_slice_take(h, s->bytes, alignment) : 0;
    int r = 0;
    manager_lock(m);
    bool still = s->blank && !s->pins && !s->left && s->busy == 1 && !s->doomed && !s->group->alone;
    const struct terrace_tensor *there = address ? a->number[(address - a->base) / GROUP].group : NULL;
    bool fits = there && there->home == tier && placement_same(there->placement, s->group->placement);
    struct terrace_tensor *was = s->group, *g = fits || !still ? NULL : alone_new_locked(s);
    if (still && !fits && !g)
        r = error_set(-TERRACE_ENOMEM, "no host memory to use '%s' on %s", small_name(s), m->tier[tier].name);
    if (still && r == 0) {
        uint32_t offset = s->offset;
        small_unlink_locked(s);
        if (g) {
            join_alone_locked(s, g);
        } else {
            small_place_locked(a, s, address);
            address = 0;
        }
        if (h)
            a->latest = (unsigned char)tier;
        small_slice_leave_locked(s, was, offset);
    }
    placement_drop_locked(p);
    manager_unlock(m);
    if (address)
        small_slice_give(h, address, s->bytes, alignment);
    return r;
}

/* Copies the bytes, which are pinned at `from`, into a group of its own. */
static int copy_out(const struct small *s, struct terrace_tensor *g, const void *from, unsigned tier,
                    unsigned how)
{
    void *to;
    if (!(s->manager->tier[tier].backend->caps & TERRACE_CAP_CPU))
        tier = g->home; /* from where it goes on like any other */
    int r = terrace_acquire(g, (terrace_tier)tier, TERRACE_OVERWRITE | how, TERRACE_HOST_SYNC, &to, NULL);
    if (r)
        return r;
    memcpy(to, from, s->bytes);
    return terrace_release(g, to, TERRACE_HOST_SYNC);
}

/* Has the tensor leave its group for one of its own. Who reads it where it was
 * goes on to do so. */
static int move_out(struct small *s, unsigned tier, unsigned how)
{
    struct terrace *m = s->manager;
    struct small_left *left = calloc(1, sizeof *left);
    void *from;
    int r = terrace_acquire((terrace_tensor *)s, s->group->home, TERRACE_READ | how, TERRACE_HOST_SYNC,
                            &from, NULL);
    if (r)
        goto free_left;
    manager_lock(m);
    struct terrace_tensor *g = left ? alone_new_locked(s) : NULL;
    manager_unlock(m);
    r = g ? copy_out(s, g, from, tier, how)
          : error_set(-TERRACE_ENOMEM, "no host memory to use '%s' on two tiers", small_name(s));
    manager_lock(m);
    if (r == 0 && left && s->busy == 1) { /* no other call counts on where it is */
        small_unlink_locked(s);
        *left = (struct small_left){s->group, s->offset, s->pins};
        s->left = left;
        s->pins = 0;
        left = NULL;
        join_alone_locked(s, g);
    } else if (g) {
        g->busy--;
        tensor_doom_locked(g);
    }
    manager_unlock(m);
    terrace_release((terrace_tensor *)s, from, TERRACE_HOST_SYNC);
free_left:
    free(left);
    return r;
}

int small_prepare(terrace_tensor *t, terrace_tier which, unsigned mode)
{
    struct small *s = small_of(t);
    struct terrace *m = t->manager;
    if (!s || !m->several)
        return 0;
    manager_lock(m);
    s->busy++;
    int r = exclusion_wait_locked(s, which, mode);
    int to = r ? -1 : elsewhere_locked(s, which);
    bool blank = s->blank && !s->pins && !s->left, move = to >= 0 && !s->doomed;
    s->moving |= move && !blank;
    manager_unlock(m);
    if (move)
        r = blank ? move_blank(s, (unsigned)to) : move_out(s, (unsigned)to, mode & (TERRACE_WAIT | TERRACE_NOWAIT));
    manager_lock(m);
    if (move && !blank) {
        s->moving = false;
        m->releases++;
        manager_changed_locked(m);
    }
    if (s->doomed)
        r = error_set(-TERRACE_EINVAL, "'%s' was destroyed", small_name(s));
    s->busy--;
    small_reap_locked(s);
    manager_unlock(m);
    return r;
}

struct small_left *small_left_at_locked(const struct small *s, const void *address)
{
    struct small_left *left = s->left;
    if (!left)
        return NULL;
    const struct copy *c = &left->group->copy[left->group->home];
    return c->extent && (const char *)copy_address(c) + left->offset == address ? left : NULL;
}

void small_released_locked(struct small *s, struct small_left *left)
{
    if (!left) {
        s->writes -= s->writes == s->pins; /* readers go first, as in copy_unpin_locked() */
        s->pins--;
    } else if (--left->pins == 0) {
        s->left = NULL;
        s->busy++;
        small_slice_leave_locked(s, left->group, left->offset);
        s->busy--;
        free(left);
    }
    small_reap_locked(s);
}
