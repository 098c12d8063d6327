/* policy.c - who leaves a tier when room is needed.
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
 * May call: libc. */
#include "policy.h"

#include <stddef.h>

void policy_init(struct policy *p, enum policy_kind kind, uint64_t limit)
{
    *p = (struct policy){.kind = kind, .limit = limit, .evicted = 1};
    for (int hot = 0; hot < 2; hot++)
        for (int dirty = 0; dirty < 2; dirty++)
            TAILQ_INIT(&p->list[hot][dirty]);
}

void policy_arrived(struct policy *p, struct policy_node *n, bool ahead)
{
    bool back_soon = n->left_at && p->evicted - n->left_at < p->limit / 2;
    n->hot = p->kind == POLICY_AUTO && (n->hot || back_soon);
    n->ahead = ahead;
    policy_used(p, n);
}

void policy_used(struct policy *p, struct policy_node *n)
{
    n->stamp = ++p->clock;
}

void policy_add(struct policy *p, struct policy_node *n, bool dirty)
{
    struct policy_list *list = &p->list[n->hot][dirty];
    struct policy_node *before = TAILQ_LAST(list, policy_list);
    n->dirty = dirty;
    n->listed = true;
    p->bytes[n->hot][dirty] += n->bytes;
    if (n->stamp == 0) {
        TAILQ_INSERT_HEAD(list, n, link);
        return;
    }
    while (before && before->stamp > n->stamp) /* few steps: nearly always newest */
        before = TAILQ_PREV(before, policy_list, link);
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
    p->bytes[n->hot][n->dirty] -= n->bytes;
    n->listed = false;
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

struct policy_node *policy_victim(struct policy *p, bool clean_only)
{
    if (p->kind == POLICY_NONE)
        return NULL;
    struct policy_node *cold = oldest(p, 0, clean_only);
    struct policy_node *hot = oldest(p, 1, clean_only);
    bool cold_first = p->bytes[0][0] + p->bytes[0][1] > p->limit / 4 || (cold && cold->stamp == 0);
    if (cold_first)
        return cold ? cold : hot;
    return hot ? hot : cold;
}

struct policy_node *policy_dirty(struct policy *p)
{
    if (p->kind == POLICY_NONE)
        return NULL;
    struct policy_node *cold = TAILQ_FIRST(&p->list[0][1]);
    return cold ? cold : TAILQ_FIRST(&p->list[1][1]);
}

uint64_t policy_clean_bytes(const struct policy *p)
{
    return p->bytes[0][0] + p->bytes[1][0];
}

uint64_t policy_dirty_bytes(const struct policy *p)
{
    return p->bytes[0][1] + p->bytes[1][1];
}
