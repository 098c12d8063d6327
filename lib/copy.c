/* copy.c - the states and pins of one tensor's copy in one tier.
 *
 * May call: core.h, forked.h, gate.h, lease.h, prefetch.h, view.h, the policy, the arena. Everything
 * here runs under the manager's lock and never blocks. */
#include <assert.h>
#include <stdlib.h>

#include "forked.h"
#include "gate.h"
#include "lease.h"
#include "mover.h"
#include "prefetch.h"
#include "view.h"

static bool holds_bytes(unsigned state)
{
    return state == COPY_VALID;
}

void copy_set_locked(struct copy *c, enum copy_state state)
{
    struct tier *tier = copy_tier(c);
    assert(!lease_is_open(c->tensor));
    uint64_t tensors = c->tensor->group ? c->tensor->live : 1;
    tier->tensors += tensors * ((uint64_t)holds_bytes(state) - (uint64_t)holds_bytes(c->state));
    c->state = (unsigned char)state;
}

/* Whether another memory tier, at `from` or after it, has the bytes. */
static bool elsewhere_locked(const struct copy *c, unsigned from)
{
    const struct terrace *m = copy_manager(c);
    for (unsigned i = from; i < m->tiers; i++)
        if (i != c->tier && tier_is_memory(&m->tier[i]) && c->tensor->copy[i].state == COPY_VALID)
            return true;
    return false;
}

bool copy_backed_locked(const struct copy *c)
{
    return tensor_stored_locked(c->tensor) || elsewhere_locked(c, 0);
}

bool copy_dirty_locked(const struct copy *c)
{
    if (c->state != COPY_VALID || c->tensor->blank || elsewhere_locked(c, c->tier))
        return false;
    /* What goes to memory goes there also where a disk has the bytes. */
    return copy_below(c) || !copy_backed_locked(c);
}

void copy_settle_locked(struct copy *c)
{
    struct tier *tier = copy_tier(c);
    if (!tier_is_memory(tier))
        return;
    bool open = lease_is_open(c->tensor) && c->tensor->leased == c->tier;
    bool listed = c->state == COPY_VALID && !open && !c->pins && !c->uses && !c->tensor->transfer &&
                  !c->tensor->doomed && !c->tensor->leaving && !c->tensor->stuck && !c->tensor->passing &&
                  !(c->tensor->flags & TERRACE_ATTR_UNMOVABLE);
    bool dirty = listed && copy_dirty_locked(c);
    listed &= !dirty || !c->tensor->placement || placement_may_leave(tier, c->tensor->placement); /* what may go nowhere else stays */
    if (listed && c->node.listed && c->node.dirty == dirty)
        return;
    policy_remove(&tier->policy, &c->node);
    if (listed)
        policy_add(&tier->policy, &c->node, dirty);
}

void copies_settle_locked(struct terrace_tensor *t)
{
    for (unsigned i = 0; i < t->manager->tiers; i++)
        copy_settle_locked(&t->copy[i]);
}

void copy_not_ahead_locked(struct copy *c)
{
    if (!c->node.ahead)
        return;
    c->node.ahead = false;
    copy_tier(c)->ahead -= c->node.bytes;
    lanes_poke_locked(copy_manager(c)); /* the next may come */
}

void copy_drop_locked(struct copy *c)
{
    struct tier *tier = copy_tier(c);
    policy_remove(&tier->policy, &c->node);
    copy_not_ahead_locked(c);
    bool had = c->state == COPY_VALID || c->state == COPY_STALE;
    if (had && tier_is_memory(tier) && !c->tensor->doomed && !c->tensor->blank)
        prefetch_absent_locked(tier->manager);
    copy_set_locked(c, COPY_ABSENT);
    c->wrote = false;
    c->hollow = 0;
    c->promised = c->will_write = false;
    gate_over_locked(c);
    view_drop_locked(c);
    if (c->extent && c->tensor->placement)
        tier->tainted |= c->tensor->placement->denied;
    if (c->extent && !fork_keeps_locked(c)) {
        arena_free(&tier->arena, c->extent);
        tier->manager->releases++; /* room for those who wait for a release */
    }
    c->extent = NULL;
    free(c->seals);
    c->seals = NULL;
    copies_settle_locked(c->tensor); /* others may be the only ones now */
}

void copy_written_locked(struct copy *c)
{
    struct terrace_tensor *t = c->tensor;
    t->blank = false;
    t->file_valid = false;
    if (c->wrote)
        t->manager->stats.wasted_bytes += t->bytes;
    c->wrote = false;
    if (t->transfer)
        t->transfer->stale = true;
    for (unsigned i = 0; i < t->manager->tiers; i++) {
        struct copy *other = &t->copy[i];
        if (other == c || other->state != COPY_VALID)
            continue;
        if (!tier_is_memory(&t->manager->tier[i]) || t->transfer)
            copy_set_locked(other, COPY_STALE); /* its blocks serve the next write-back, or are in use */
        else
            copy_drop_locked(other);
    }
    copies_settle_locked(t);
}

void copy_stale_locked(struct copy *c)
{
    bool held = c->uses || (c->promised && c->pins); /* other pins are of those who wait for it to go */
    if (c->state == COPY_STALE && tier_is_memory(copy_tier(c)) && !held && !c->tensor->transfer)
        copy_drop_locked(c);
}

/* ---- pins -------------------------------------------------------------- */

uint32_t thread_token(void)
{
    static atomic_uint last;
    static _Thread_local uint32_t token;
    if (token == 0)
        token = atomic_fetch_add(&last, 1) + 1;
    return token;
}

struct pin *pin_take_locked(struct terrace *m)
{
    struct pin *p = m->spare_pins;
    if (p)
        m->spare_pins = p->next;
    else
        p = malloc(sizeof *p);
    return p;
}

void pin_give_locked(struct terrace *m, struct pin *p)
{
    p->next = m->spare_pins;
    m->spare_pins = p;
}

static struct pin *pin_of(const struct copy *c, uint32_t thread)
{
    struct pin *p = c->pins;
    while (p && p->thread != thread)
        p = p->next;
    return p;
}

int copy_pin_locked(struct copy *c, bool write)
{
    uint32_t thread = thread_token();
    struct pin *p = pin_of(c, thread);
    assert(!lease_is_open(c->tensor));
    if (!p) {
        p = pin_take_locked(copy_manager(c));
        if (!p)
            return error_set(-TERRACE_ENOMEM, "no host memory to hold '%s'", tensor_name(c->tensor));
        *p = (struct pin){.next = c->pins, .thread = thread};
        if (!c->pins) {
            struct tier *tier = copy_tier(c);
            TAILQ_INSERT_TAIL(&tier->pinned, c, held);
            policy_remove(&tier->policy, &c->node);
        }
        c->pins = p;
    }
    p->count++;
    p->writes += write;
    return 0;
}

bool copy_unpin_locked(struct copy *c)
{
    struct pin *p = pin_of(c, thread_token());
    if (!p)
        p = c->pins;
    if (!p)
        return false;
    if (p->writes == p->count) /* readers go first where a thread has both */
        p->writes--;
    if (--p->count)
        return true;
    struct pin **link = &c->pins;
    while (*link != p)
        link = &(*link)->next;
    *link = p->next;
    pin_give_locked(copy_manager(c), p);
    if (!c->pins)
        TAILQ_REMOVE(&copy_tier(c)->pinned, c, held);
    return true;
}

bool copy_pinned_to_write(const struct copy *c)
{
    for (const struct pin *p = c->pins; p; p = p->next)
        if (p->writes)
            return true;
    return false;
}

bool copy_pinned_by_caller(const struct copy *c)
{
    return pin_of(c, thread_token()) != NULL;
}
