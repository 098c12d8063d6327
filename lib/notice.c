/* notice.c - uses of blocks of address-stable memory are noticed.
 *
 * What can be learned of a program (schedule.c) is learned from the order of its
 * uses. A block is used when somebody touches it, which nobody sees but where it
 * is not mapped: that is a fault. So while memory is short, what was mapped some
 * uses ago is taken back into the arena, where it stays; the next touch is a fault
 * again, of some microseconds, and no transfer.
 *
 * How many stay mapped: enough for a few walks at once. One that is touched soon
 * after it was taken back was in use all the time; from that it is learned how many
 * are. As long as it may still turn out so, it is the last to be evicted, though
 * its next use, as walks go, seems the furthest of all.
 *
 * Where pages are copied instead of moved (uffd_copy.c), that would cost too much:
 * no uses are noticed there.
 *
 * A block that is mapped on a slower node (away.c) would be used there for ever. So
 * each of them is taken back after some seconds: who touches it then has it brought to
 * the fast node, by a fault as any other; one that nobody touches stays where it is.
 *
 * While memory suffices, or nothing repeats, or the policy follows no schedule,
 * nothing is taken back. What that costs a program is bounded: every block that
 * comes, which takes a millisecond or so, pays for a few to be taken back; and where
 * predictions come true, some are in every second.
 *
 * May call: core.h, lease.h, moved.h, prefetch.h, region.h. */
#include "notice.h"

#include "lease.h"
#include "moved.h"
#include "prefetch.h"
#include "region.h"
#include "stable.h"

enum {
    KEEP_LEAST = 4,
    KEEP_SHARE = 8,  /* the part of a tier that stays mapped, at most */
    CALM = 256,      /* uses after which one less is tried */
    EARNED = 4,      /* taken back for every block that comes */
    SAVED = 64,      /* of these, at most for later */
    AWAY_MS = 100,   /* between two looks at what is away, */
    AWAY_PARTS = 32, /* each at one part of it */
};
static const uint64_t PAUSE_NS = 256000;    /* between two more taken back, on average */
static const uint64_t BURST_NS = 500000000; /* over which that is the average */

void notice_init(const struct terrace *m, struct notice *n)
{
    *n = (struct notice){.keep = KEEP_LEAST};
    TAILQ_INIT(&n->shown);
    TAILQ_INIT(&n->hidden);
    TAILQ_INIT(&n->away);
    for (unsigned i = 0; i < m->tiers; i++)
        n->sought[i] = m->tier[i].sought;
}

/* ---- uses --------------------------------------------------------------- */

static unsigned mode_of(const struct terrace_tensor *t)
{
    return TERRACE_READ | (t->changes ? TERRACE_WRITE : 0); /* as it was the last time */
}

static void use_locked(struct stable *s, struct terrace_tensor *t)
{
    struct terrace *m = t->manager;
    if (s->uffd.copies)
        return;
    leases_drain_locked(m); /* those uses were before this one */
    prefetch_used_locked(t, block_copy(t)->tier, mode_of(t), prefetch_time_locked(m, s->notice.waiting_since));
}

void notice_used_locked(struct stable *s, struct terrace_tensor *t)
{
    struct notice *n = &s->notice;
    bool comes = block_copy(t)->state != COPY_VALID || block_copy(t)->node.ahead;
    n->credit += comes ? EARNED : 0;
    if (n->credit > SAVED)
        n->credit = SAVED;
    if (!n->waiting_since)
        n->waiting_since = clock_ns();
    use_locked(s, t);
}

void notice_touched_locked(struct terrace_tensor *t)
{
    if (policy_foresees(&t->region->tier->policy))
        use_locked(t->manager->stable, t);
}

void notice_served_locked(struct stable *s, struct terrace *m)
{
    struct notice *n = &s->notice;
    if (n->waiting_since)
        stalled_locked(m, n->waiting_since, "stable memory", true);
    n->waiting_since = TAILQ_EMPTY(&s->faulted) ? 0 : clock_ns();
}

/* ---- what stays mapped -------------------------------------------------- */

/* At most so many blocks of a tier: they are kept from being evicted. */
static unsigned keep_most(const struct tier *tier)
{
    uint64_t most = tier->arena.limit / tier->info.granule / KEEP_SHARE;
    return most < 1 ? 1 : most > 1 << 16 ? 1 << 16 : (unsigned)most;
}

static void put(struct terrace_tensor *t, struct notice_list *list, unsigned *count, unsigned char which)
{
    struct copy *c = block_copy(t);
    TAILQ_INSERT_TAIL(list, t, noticed);
    ++*count;
    t->notice = which;
    if (which != NOTICE_AWAY)
        policy_current(&copy_tier(c)->policy, &c->node, true);
}

static void take(struct notice *n, struct terrace_tensor *t)
{
    struct copy *c = block_copy(t);
    bool shown = t->notice == NOTICE_SHOWN, away = t->notice == NOTICE_AWAY;
    TAILQ_REMOVE(shown ? &n->shown : away ? &n->away : &n->hidden, t, noticed);
    --*(shown ? &n->showing : away ? &n->staying : &n->hiding);
    t->notice = NOTICE_NONE;
    if (!away)
        policy_current(&copy_tier(c)->policy, &c->node, false);
}

void notice_forget_locked(struct stable *s, struct terrace_tensor *t)
{
    if (t->notice != NOTICE_NONE)
        take(&s->notice, t);
}

void notice_mapped_locked(struct stable *s, struct terrace_tensor *t)
{
    struct notice *n = &s->notice;
    unsigned most = keep_most(t->region->tier);
    bool too_soon = t->notice == NOTICE_HIDDEN;
    n->uses++;
    notice_forget_locked(s, t);
    if (too_soon)
        n->keep++;
    else if (++n->calm >= CALM && n->keep > KEEP_LEAST)
        n->keep--;
    if (too_soon || n->calm >= CALM)
        n->calm = 0;
    if (n->keep > most)
        n->keep = most;
    if (!t->doomed && !s->uffd.copies)
        put(t, &n->shown, &n->showing, NOTICE_SHOWN);
}

void notice_away_locked(struct stable *s, struct terrace_tensor *t)
{
    struct notice *n = &s->notice;
    if (!n->staying)
        n->look_away = clock_ns() + AWAY_MS * UINT64_C(1000000);
    put(t, &n->away, &n->staying, NOTICE_AWAY);
}

/* ---- taking back -------------------------------------------------------- */

static bool memory_is_short(struct notice *n, const struct tier *tier)
{
    unsigned i = (unsigned)(tier - tier->manager->tier);
    if (n->sought[i] != tier->sought)
        n->short_until[i] = n->uses + 2 * tier->arena.limit / tier->info.granule;
    n->sought[i] = tier->sought;
    return n->uses < n->short_until[i];
}

static bool affordable(struct notice *n, bool trusted)
{
    uint64_t now = clock_ns();
    if (n->credit) {
        n->credit--;
        return true;
    }
    if (!trusted)
        return false;
    if (n->paid_until + BURST_NS < now)
        n->paid_until = now - BURST_NS;
    if (n->paid_until > now)
        return false;
    n->paid_until += PAUSE_NS;
    return true;
}

static bool is_to_hide(struct notice *n, struct terrace_tensor *t)
{
    const struct tier *tier = t->region->tier;
    bool at_rest = t->mapped && !t->leaving && !t->faulted && !t->busy && !t->doomed && !block_copy(t)->pins;
    return at_rest && memory_is_short(n, tier) && tier->policy.schedule && !tier->manager->schedule.sleep &&
           affordable(n, tier->manager->schedule.trusted);
}

void notice_take_back_locked(struct terrace *m)
{
    struct stable *s = m->stable;
    struct notice *n = &s->notice;
    while (fork_gate_locked(m), n->showing > n->keep) {
        struct terrace_tensor *t = TAILQ_FIRST(&n->shown);
        take(n, t);
        if (is_to_hide(n, t) && stable_hide_locked(s, t))
            put(t, &n->hidden, &n->hiding, NOTICE_HIDDEN);
    }
    while (n->hiding > n->keep)
        take(n, TAILQ_FIRST(&n->hidden));
}

int notice_look_away_locked(struct terrace *m)
{
    struct stable *s = m->stable;
    struct notice *n = &s->notice;
    uint64_t now = clock_ns();
    if (n->staying && now >= n->look_away) {
        n->look_away = now + AWAY_MS * UINT64_C(1000000);
        for (unsigned k = (n->staying + AWAY_PARTS - 1) / AWAY_PARTS; k; k--) {
            struct terrace_tensor *t = TAILQ_FIRST(&n->away);
            struct copy *c = &t->copy[t->from];
            take(n, t);
            if (c->node.listed)
                stable_recall_locked(c);
            else
                put(t, &n->away, &n->staying, NOTICE_AWAY);
        }
    }
    return n->staying ? AWAY_MS : -1;
}
