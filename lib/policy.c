/* policy.c - who leaves a tier when room is needed, and what is brought early.
 *
 * `lru` evicts the least recently used copy. `auto` is scan resistant after 2Q
 * (T. Johnson, D. Shasha: "2Q: A Low Overhead High Performance Buffer
 * Management Replacement Algorithm", VLDB 1994): a copy that comes in for the
 * first time is cold; cold copies leave first as long as they hold more than a
 * quarter of the tier; one that comes back soon after it was evicted, within
 * half a tier's worth of later evictions, is hot. So one pass over much data
 * used once does not push out what is used all the time. What 2Q keeps in a
 * list of ghosts is here one number per copy, since handles outlive residency.
 *
 * Each of the two groups has a list of clean and one of dirty copies in order
 * of use, so that every question is answered from the front of a list.
 *
 * Where a schedule is followed and its predictions have come true of late
 * (`belady`: always where there are any), the copy leaves whose next use is
 * furthest (L. A. Belady: "A study of replacement algorithms for a
 * virtual-storage computer", IBM Systems Journal 1966), which does not depend on
 * its size: what is compared is the value of a byte. Distances are weighed by
 * what leaving costs: a copy that will be overwritten or destroyed unread need
 * not be read again. That it has to be written counts for less than with others:
 * what is there in its stead will be read, and of what is changed in every step
 * nearly all has to be written sooner or later. (With the weights below the
 * traces of bench/policy read within 5 % of the least, and most move less than Belady
 * would.) A copy of which nothing is known is taken to be used again after as long
 * as it has not been used.
 *
 * What is brought ahead of its use follows P. Cao, E. W. Felten, A. R. Karlin,
 * K. Li: "A study of integrated prefetching and caching strategies" (SIGMETRICS
 * 1995): the next absent one in order of use, replacing the copy whose use is
 * furthest, and only if that comes later than its own.
 *
 * For that, listed copies are sorted into trees by next use, but not before a
 * victim is wanted: while memory suffices, being used costs no sorting.
 *
 * May call: libc, schedule.h. */
#include "policy.h"

#include <stddef.h>

#include "terrace.h"

enum {
    OVERDUE = 64,     /* uses after which one that did not come is not expected any more */
    READ_COST = 4,    /* a read may be waited for, */
    WRITE_COST = 3,   /* a write can wait until the disk is free, */
    LAST_WRITE = 1,   /* and with one that is not read again nobody has anything to do */
    LOOKS_MOST = 256, /* copies looked at to find one to write */
    SLACK = 4,        /* a transfer may take so many times as long: half the disk writes */
    HARM = 2,         /* what leaves for something early is used so many times later */
};
static const uint64_t LATENCY_NS = 5000000;

static int next_compare(const struct policy_node *a, const struct policy_node *b)
{
    if (a->next != b->next)
        return a->next < b->next ? -1 : 1;
    return (a > b) - (a < b);
}

#define UNUSED_STATIC __attribute__((unused)) static
RB_GENERATE_INTERNAL(policy_tree, policy_node, by_next, next_compare, UNUSED_STATIC)

void policy_init(struct policy *p, enum policy_kind kind, uint64_t limit)
{
    *p = (struct policy){.kind = kind, .limit = limit, .evicted = 1};
    for (int hot = 0; hot < 2; hot++)
        for (int dirty = 0; dirty < 2; dirty++)
            TAILQ_INIT(&p->list[hot][dirty]);
    TAILQ_INIT(&p->fresh);
    for (int dirty = 0; dirty < 2; dirty++)
        TAILQ_INIT(&p->unknown[dirty]);
}

void policy_follow(struct policy *p, const struct schedule *s)
{
    if (p->kind == POLICY_AUTO || p->kind == POLICY_BELADY)
        p->schedule = s;
}

/* ---- in order of use ---------------------------------------------------- */

void policy_arrived(struct policy *p, struct policy_node *n, bool ahead)
{
    bool back_soon = n->left_at && p->evicted - n->left_at < p->limit / 2;
    n->hot = p->kind != POLICY_LRU && (n->hot || back_soon);
    n->ahead = ahead;
    policy_used(p, n);
}

void policy_used(struct policy *p, struct policy_node *n)
{
    n->stamp = ++p->clock;
}

/* ---- what is known of the next use -------------------------------------- */

static void unrank(struct policy *p, struct policy_node *n)
{
    if (n->rank == RANK_NEW)
        TAILQ_REMOVE(&p->fresh, n, other);
    else if (n->rank == RANK_UNKNOWN)
        TAILQ_REMOVE(&p->unknown[n->dirty], n, other);
    else if (n->rank == RANK_EXPECTED)
        RB_REMOVE(policy_tree, &p->expected[n->dirty][n->unread], n);
    n->rank = RANK_NONE;
}

static void rank_new(struct policy *p, struct policy_node *n)
{
    TAILQ_INSERT_TAIL(&p->fresh, n, other);
    n->rank = RANK_NEW;
}

/* Its turn is where it was used last; they come nearly in that order. */
static void rank_unknown(struct policy *p, struct policy_node *n)
{
    struct policy_list *list = &p->unknown[n->dirty];
    struct policy_node *before = TAILQ_LAST(list, policy_list);
    for (int steps = 0; before && before->stamp > n->stamp && (steps < OVERDUE || n->stamp == 0); steps++)
        before = n->stamp == 0 ? NULL : TAILQ_PREV(before, policy_list, other);
    if (before)
        TAILQ_INSERT_AFTER(list, before, n, other);
    else
        TAILQ_INSERT_HEAD(list, n, other);
    n->rank = RANK_UNKNOWN;
}

static void rank(struct policy *p, struct policy_node *n)
{
    const struct schedule *s = p->schedule;
    unrank(p, n);
    if (!s->line || !n->item || n->stamp == 0 || n->item->next == SCHEDULE_UNKNOWN ||
        n->item->next + OVERDUE < s->now) {
        rank_unknown(p, n);
        return;
    }
    unsigned mode = schedule_next_mode(s, n->item);
    n->next = n->current ? s->now : n->item->next;
    n->unread = n->item->dies || (mode & TERRACE_OVERWRITE);
    n->rank = RANK_EXPECTED;
    RB_INSERT(policy_tree, &p->expected[n->dirty][n->unread], n);
}

/* Brings the ranks up to date. */
static void rank_all(struct policy *p)
{
    const struct schedule *s = p->schedule;
    struct policy_node *n;
    for (int i = 0; i < 4 && p->epoch != s->epoch; i++)
        TAILQ_FOREACH(n, &p->list[i / 2][i % 2], link)
            if (n->rank != RANK_NEW) {
                unrank(p, n);
                rank_new(p, n);
            }
    p->epoch = s->epoch;
    while ((n = TAILQ_FIRST(&p->fresh)) != NULL)
        rank(p, n);
    for (int i = 0; i < 4; i++) { /* what should have come and did not */
        struct policy_tree *tree = &p->expected[i / 2][i % 2];
        while ((n = RB_MIN(policy_tree, tree)) != NULL && n->next + OVERDUE < s->now) {
            unrank(p, n);
            rank_unknown(p, n);
        }
    }
}

void policy_current(struct policy *p, struct policy_node *n, bool current)
{
    bool listed = n->rank != RANK_NONE;
    n->current = current;
    unrank(p, n);
    if (listed)
        rank_new(p, n);
}

bool policy_foresees(const struct policy *p)
{
    return p->schedule && p->schedule->line && (p->schedule->trusted || p->kind == POLICY_BELADY);
}

/* The one after which the node has its place, NULL: it is the first. Nearly always
 * that is the last; where many come that were used long ago, they come in order, or
 * before all others. */
static struct policy_node *before_it(const struct policy_list *list, struct policy_node *added,
                                     const struct policy_node *n)
{
    struct policy_node *first = TAILQ_FIRST(list), *last = TAILQ_LAST(list, policy_list);
    if (!first || n->stamp == 0 || n->stamp < first->stamp)
        return NULL;
    if (last->stamp <= n->stamp)
        return last;
    struct policy_node *before = added ? added : last, *next;
    while (before->stamp > n->stamp)
        before = TAILQ_PREV(before, policy_list, link);
    while ((next = TAILQ_NEXT(before, link))->stamp <= n->stamp)
        before = next;
    return before;
}

void policy_add(struct policy *p, struct policy_node *n, bool dirty)
{
    struct policy_list *list = &p->list[n->hot][dirty];
    struct policy_node **added = &p->added[n->hot][dirty];
    struct policy_node *before = before_it(list, *added, n);
    n->dirty = dirty;
    n->listed = true;
    p->bytes[n->hot][dirty] += n->bytes;
    if (p->schedule)
        rank_new(p, n);
    *added = n;
    if (before)
        TAILQ_INSERT_AFTER(list, before, n, link);
    else
        TAILQ_INSERT_HEAD(list, n, link);
}

void policy_remove(struct policy *p, struct policy_node *n)
{
    if (!n->listed)
        return;
    TAILQ_REMOVE(&p->list[n->hot][n->dirty], n, link);
    if (p->added[n->hot][n->dirty] == n)
        p->added[n->hot][n->dirty] = NULL;
    p->bytes[n->hot][n->dirty] -= n->bytes;
    n->listed = false;
    unrank(p, n);
}

void policy_evicted(struct policy *p, struct policy_node *n)
{
    p->evicted += n->bytes;
    n->left_at = p->evicted;
    n->hot = false;
}

void policy_cool(struct policy_node *n)
{
    n->stamp = 0;
    n->hot = false;
}

static struct policy_node *older(struct policy_node *a, struct policy_node *b)
{
    if (!a || !b)
        return a ? a : b;
    return a->stamp <= b->stamp ? a : b;
}

static struct policy_node *oldest(struct policy *p, int hot, bool clean_only)
{
    struct policy_node *clean = TAILQ_FIRST(&p->list[hot][0]);
    return clean_only ? clean : older(clean, TAILQ_FIRST(&p->list[hot][1]));
}

static struct policy_node *victim_by_age(struct policy *p, bool clean_only)
{
    struct policy_node *cold = oldest(p, 0, clean_only);
    struct policy_node *hot = oldest(p, 1, clean_only);
    bool cold_first = p->bytes[0][0] + p->bytes[0][1] > p->limit / 4 || (cold && cold->stamp == 0);
    if (cold_first)
        return cold ? cold : hot;
    return hot ? hot : cold;
}

/* ---- in order of the next use ------------------------------------------- */

/* A place in the order in which copies would leave: the first of each kind that
 * has not left yet. */
struct order {
    struct policy *p;
    struct policy_node *expected[2][2], *unknown[2];
};

static void order_begin(struct order *o, struct policy *p)
{
    o->p = p;
    rank_all(p);
    for (int dirty = 0; dirty < 2; dirty++) {
        o->unknown[dirty] = TAILQ_FIRST(&p->unknown[dirty]);
        for (int unread = 0; unread < 2; unread++)
            o->expected[dirty][unread] = RB_MAX(policy_tree, &p->expected[dirty][unread]);
    }
}

/* How long until the use: for one of which nothing is known as long as since
 * its last. (An acquire and its release are two uses to the policy's clock.) */
static uint64_t distance(const struct policy *p, const struct policy_node *n)
{
    if (n->rank == RANK_UNKNOWN)
        return n->stamp == 0 ? UINT64_MAX / 4 : (p->clock - n->stamp) / 2 + 1;
    return n->next > p->schedule->now ? n->next - p->schedule->now : 0;
}

static unsigned cost(const struct policy_node *n)
{
    if (n->rank == RANK_EXPECTED && n->unread)
        return n->dirty ? LAST_WRITE : 0;
    return READ_COST + (n->dirty ? WRITE_COST : 0);
}

static bool leaves_before(const struct policy *p, const struct policy_node *a,
                          const struct policy_node *b)
{
    if (!a || !b)
        return a != NULL;
    return distance(p, a) * cost(b) > distance(p, b) * cost(a);
}

static struct policy_node *order_next(struct order *o, bool clean_only)
{
    struct policy_node *best = NULL, **from = NULL;
    for (int dirty = 0; dirty < (clean_only ? 1 : 2); dirty++) {
        if (leaves_before(o->p, o->unknown[dirty], best))
            best = *(from = &o->unknown[dirty]);
        for (int unread = 0; unread < 2; unread++)
            if (leaves_before(o->p, o->expected[dirty][unread], best))
                best = *(from = &o->expected[dirty][unread]);
    }
    if (best && best->rank == RANK_UNKNOWN)
        *from = TAILQ_NEXT(best, other);
    else if (best)
        *from = RB_PREV(policy_tree, &o->p->expected[best->dirty][best->unread], best);
    return best;
}

struct policy_node *policy_victim(struct policy *p, bool clean_only)
{
    struct order o;
    if (p->kind == POLICY_NONE)
        return NULL;
    if (!policy_foresees(p))
        return victim_by_age(p, clean_only);
    order_begin(&o, p);
    return order_next(&o, clean_only);
}

struct policy_node *policy_victim_for(struct policy *p, bool clean_only, uint64_t when)
{
    struct policy_node *n = policy_victim(p, clean_only);
    if (!n || !policy_foresees(p))
        return n;
    uint64_t now = p->schedule->now, until = when > now ? when - now : 0;
    return distance(p, n) / HARM >= until ? n : NULL;
}

/* ---- writing ahead ------------------------------------------------------ */

static struct policy_node *dirty_by_age(struct policy *p)
{
    struct policy_node *cold = TAILQ_FIRST(&p->list[0][1]);
    return cold ? cold : TAILQ_FIRST(&p->list[1][1]);
}

struct policy_node *policy_dirty_within(struct policy *p, uint64_t want)
{
    struct order o;
    struct policy_node *n;
    uint64_t bytes = 0;
    if (p->kind == POLICY_NONE)
        return NULL;
    if (!policy_foresees(p))
        return policy_clean_bytes(p) < want ? dirty_by_age(p) : NULL;
    order_begin(&o, p);
    for (int looks = 0; bytes < want && looks < LOOKS_MOST; looks++, bytes += n->bytes) {
        n = order_next(&o, false);
        if (!n || n->dirty)
            return n;
    }
    return NULL;
}

struct policy_node *policy_dirty(struct policy *p)
{
    return policy_dirty_within(p, UINT64_MAX);
}

uint64_t policy_early(uint64_t ns, uint64_t bytes, uint64_t rate)
{
    double takes = rate ? (double)bytes * 1e9 / (double)rate : 0;
    double begin = (double)ns - takes * SLACK - (double)LATENCY_NS;
    return begin > 0 ? (uint64_t)begin : 0;
}

uint64_t policy_clean_bytes(const struct policy *p)
{
    return p->bytes[0][0] + p->bytes[1][0];
}

uint64_t policy_dirty_bytes(const struct policy *p)
{
    return p->bytes[0][1] + p->bytes[1][1];
}
