/* choose.c - which tier an acquire takes.
 *
 * Where a tier is named, that one. A class or kind means the tier that has the
 * bytes, else the fastest that has room. Where that turns out to have less memory
 * than its budget, as other processes use it, the acquire goes on to the next that
 * has room; only where none has, something of ours has to leave (see room.c).
 *
 * Tiers where rules forbid the tensor are as if they were not there; a preference goes
 * over speed.
 *
 * May call: acquire.h, core.h, lease.h, rules.h, small.h. */
#include <assert.h>

#include "acquire.h"
#include "lease.h"
#include "rules.h"

static bool has_room_locked(const struct tier *tier, uint64_t bytes)
{
    return tier->arena.used + bytes <= tier->arena.ceiling && !rules_keep_locked(tier, bytes);
}

/* Whether tier a should rather take so many bytes than b, which is as fast or
 * faster: where b has to evict for them, and a has not or has more to evict that
 * costs no write. */
static bool roomier_locked(struct tier *a, struct tier *b, uint64_t bytes)
{
    uint64_t in_a = arena_round(&a->arena, bytes), in_b = arena_round(&b->arena, bytes);
    tier_full_locked(a);
    tier_full_locked(b);
    if (in_a > a->arena.ceiling || in_b > b->arena.ceiling)
        return in_a <= a->arena.ceiling;
    if (has_room_locked(b, in_b))
        return false;
    return has_room_locked(a, in_a) || tier_clean_bytes(a) > tier_clean_bytes(b);
}

/* Of the tiers that match and are allowed: where the bytes are, else the first choice
 * that has room. NULL: none is in memory. */
static struct copy *best_locked(struct terrace_tensor *t, terrace_tier which)
{
    struct terrace *m = t->manager;
    struct copy *best = NULL;
    for (unsigned k = 0; k < m->tiers; k++) {
        struct tier *tier = tensor_choice(t, k);
        struct copy *c = &t->copy[tier - m->tier];
        if (!tier_matches(m, c->tier, which) || !tier_is_memory(tier) || !tensor_may(t, tier))
            continue;
        if (c->state == COPY_VALID || c->state == COPY_FILLING)
            return c;
        if (!best || roomier_locked(tier, copy_tier(best), t->bytes))
            best = c;
    }
    return best;
}

/* None can be chosen: a rule forbids it, or these are disks. */
static int none_locked(const struct entry *e, terrace_tier which)
{
    const struct terrace_tensor *t = e->tensor;
    const struct terrace *m = t->manager;
    for (unsigned i = 0; i < m->tiers; i++)
        if (tier_matches(m, (int)i, which) && tier_is_memory(&m->tier[i]) && !tensor_may(t, &m->tier[i]))
            return rules_forbid(t->placement, entry_name(e), NULL, &m->tier[i]);
    return error_set(-TERRACE_ENOTSUP, "a disk tier cannot be acquired: its bytes have no "
                     "address; acquire '%s' on a host tier", entry_name(e));
}

/* The tier to acquire on. */
static int choose_locked(const struct entry *e, struct copy **out)
{
    struct terrace_tensor *t = e->tensor;
    struct terrace *m = t->manager;
    terrace_tier which = e->small ? small_tier_locked(e->small, e->tier) : e->tier;
    if ((unsigned)which < m->tiers && tier_is_memory(&m->tier[which]) && tensor_may(t, &m->tier[which])) {
        *out = &t->copy[which]; /* the usual case: a tier was named */
        return 0;
    }
    int r = tier_check(m, which);
    if (r)
        return r;
    struct copy *best = best_locked(t, which);
    if (!best)
        return none_locked(e, which);
    *out = best;
    return 0;
}

/* The list must not exclude itself. */
static int consistent_locked(const struct request *q)
{
    for (size_t i = 0; i < q->n; i++)
        for (size_t j = 0; j < q->n; j++)
            if (q->entry[i].tensor == q->entry[j].tensor && q->entry[i].copy != q->entry[j].copy &&
                (q->entry[i].mode & WRITES))
                return error_set(-TERRACE_EBUSY, "the list wants '%s' on two tiers, once for writing",
                                 tensor_name(q->entry[i].tensor));
    return 0;
}

int choose_all_locked(struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        int r = choose_locked(&q->entry[i], &q->entry[i].copy);
        if (r)
            return r;
        assert(q->entry[i].copy);
    }
    return consistent_locked(q);
}

bool choose_other_locked(struct entry *e)
{
    unsigned tiers = e->tensor->manager->tiers;
    if ((unsigned)e->tier < tiers || e->moves >= tiers)
        return false;
    struct copy *best = best_locked(e->tensor, e->tier);
    if (!best || best == e->copy)
        return false;
    e->moves++;
    e->instead = best;
    return true;
}

int choose_moved_locked(struct request *q)
{
    for (size_t i = 0; i < q->n; i++) {
        struct entry *e = &q->entry[i];
        struct copy *from = e->copy, *to = e->instead;
        uint32_t uses = 0;
        e->instead = NULL;
        for (size_t j = 0; to && j < q->n; j++)
            uses += q->entry[j].tensor == e->tensor;
        if (to && e->small && !small_rehome_locked(e->small, to->tier, uses)) {
            e->moves = MAX_TIERS;
            continue;
        }
        for (size_t j = 0; to && j < q->n; j++)
            if (q->entry[j].copy == from && (unsigned)q->entry[j].tier >= q->m->tiers)
                q->entry[j].copy = to;
    }
    return consistent_locked(q);
}
