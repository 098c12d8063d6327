/* replay.c - a trace replayed against a memory of whole tensors, without a clock. */
#include "replay.h"

#include <stdlib.h>
#include <string.h>

/* ---- what is known before a die is cast ----------------------------------- */

static void chances_open(struct chances *c, const struct trace *t)
{
    uint64_t *sum = must(calloc(t->items, sizeof *sum)), *casts = must(calloc(t->items, sizeof *casts));
    size_t *next = must(malloc(t->items * sizeof *next)), coming = t->ops;
    c->coming = must(malloc(t->ops * sizeof *c->coming));
    c->mean = must(malloc(t->items * sizeof *c->mean));
    memset(next, 0xff, t->items * sizeof *next);
    for (size_t i = t->ops; i--;) {
        if (t->op[i].kind == OP_USE)
            next[t->op[i].item] = i;
        coming = t->op[i].kind == OP_CHANCE ? i : coming;
        c->coming[i] = coming;
        for (unsigned k = 0; t->op[i].kind == OP_CHANCE && k < t->items; k++)
            if (!trace_worthless(t, next[k])) {
                sum[k] += next[k] - i;
                casts[k]++;
            }
    }
    for (unsigned k = 0; k < t->items; k++)
        c->mean[k] = casts[k] ? sum[k] / casts[k] : SIZE_MAX;
    free(sum);
    free(casts);
    free(next);
}

/* The next use of an item as it is known at operation `at`: what comes after the next die
 * is cast is known by its average alone. */
static size_t informed(const struct replay *r, const struct tensor *x, size_t at)
{
    size_t coming = at + 1 < r->t->ops ? r->chances.coming[at + 1] : r->t->ops;
    size_t mean = r->chances.mean[x - r->tensor];
    if (x->truly <= coming || coming == r->t->ops)
        return trace_worthless(r->t, x->truly) ? SIZE_MAX : x->truly;
    return mean == SIZE_MAX ? mean : coming + mean;
}

static void cast(struct replay *r, size_t at)
{
    for (unsigned i = 0; r->way == WAY_INFORMED && i < r->t->items; i++)
        if (r->tensor[i].resident)
            r->tensor[i].next = informed(r, &r->tensor[i], at);
}

/* ---- the memory ----------------------------------------------------------- */

void replay_open(struct replay *r, const struct trace *t, enum way way)
{
    *r = (struct replay){.t = t, .way = way};
    r->tensor = must(calloc(t->items, sizeof *r->tensor));
    schedule_init(&r->schedule);
    policy_init(&r->policy, way == WAY_LRU ? POLICY_LRU : POLICY_AUTO, t->budget);
    if (way == WAY_INFORMED)
        chances_open(&r->chances, t);
    if (way == WAY_LEARNED)
        policy_follow(&r->policy, &r->schedule);
}

void replay_close(struct replay *r)
{
    schedule_free(&r->schedule);
    free(r->chances.coming);
    free(r->chances.mean);
    free(r->tensor);
}

struct tensor *replay_tensor(struct policy_node *n)
{
    return n ? (struct tensor *)(void *)((char *)n - offsetof(struct tensor, node)) : NULL;
}

static struct tensor *victim(struct replay *r)
{
    struct tensor *best = NULL;
    if (r->way != WAY_BELADY && r->way != WAY_INFORMED)
        return replay_tensor(policy_victim(&r->policy, false));
    for (unsigned i = 0; i < r->t->items; i++) {
        struct tensor *x = &r->tensor[i];
        if (x->resident && x->node.listed && (!best || x->next > best->next))
            best = x;
    }
    return best;
}

void replay_drop(struct replay *r, struct tensor *x)
{
    policy_remove(&r->policy, &x->node);
    r->held -= x->resident ? x->bytes : 0;
    x->resident = false;
}

static void evict(struct replay *r, struct tensor *x)
{
    if (x->dirty)
        r->wrote[r->s] += x->bytes;
    x->dirty = false;
    x->written = true;
    replay_drop(r, x);
    policy_evicted(&r->policy, &x->node);
}

void replay_new(struct replay *r, unsigned item)
{
    struct tensor *x = &r->tensor[item];
    x->bytes = x->node.bytes = r->t->bytes[item];
    x->node.item = &x->item;
    schedule_created(&r->schedule, &x->item, NULL, x->bytes);
}

void replay_free(struct replay *r, unsigned item)
{
    replay_drop(r, &r->tensor[item]);
    r->tensor[item].gone = true;
    schedule_gone(&r->schedule, &r->tensor[item].item);
}

static void replay_use(struct replay *r, size_t at, const size_t *next)
{
    const struct op *o = &r->t->op[at];
    struct tensor *x = &r->tensor[o->item];
    if (!x->resident) {
        if (o->mode != O)
            r->read[r->s] += x->bytes;
        while (r->held + x->bytes > r->t->budget)
            evict(r, victim(r));
        x->resident = true;
        r->held += x->bytes;
        policy_arrived(&r->policy, &x->node, false);
    }
    policy_remove(&r->policy, &x->node);
    policy_used(&r->policy, &x->node);
    if (r->way == WAY_LEARNED)
        schedule_use(&r->schedule, &x->item, 0, o->mode, 0);
    x->truly = next[at];
    x->next = r->way == WAY_INFORMED ? informed(r, x, at) : trace_worthless(r->t, next[at]) ? SIZE_MAX : next[at];
    x->dirty |= o->mode != R;
    policy_used(&r->policy, &x->node);
    policy_add(&r->policy, &x->node, x->dirty);
}

void replay(const struct trace *t, enum way way, uint64_t *read, uint64_t *wrote)
{
    struct replay r;
    size_t *next = trace_future(t);
    replay_open(&r, t, way);
    for (size_t i = 0; i < t->ops; i++)
        switch (t->op[i].kind) {
        case OP_NEW:
            replay_new(&r, t->op[i].item);
            break;
        case OP_FREE:
            replay_free(&r, t->op[i].item);
            break;
        case OP_USE:
            replay_use(&r, i, next);
            break;
        case OP_CHANCE:
            cast(&r, i);
            break;
        default:
            if (!t->unmarked)
                schedule_step(&r.schedule, 0);
            r.s++;
        }
    memcpy(read, r.read, sizeof r.read);
    memcpy(wrote, r.wrote, sizeof r.wrote);
    replay_close(&r);
    free(next);
}
