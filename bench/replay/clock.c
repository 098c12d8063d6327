/* clock.c - the model with a clock: compute between uses, and a disk whose rate reads
 * and writes share. */
#include "replay.h"

#include <stdio.h>
#include <stdlib.h>

/* One transfer at a time, at the full rate. Demands go first, then what is
 * brought early, then what is written ahead; the next transfer is chosen when
 * the disk is free. */
struct model {
    struct replay r;
    uint64_t now, disk_free;   /* ns */
    uint64_t stalled;
    double scale;              /* of the compute times */
    struct tensor *job;        /* being read or written until disk_free */
    struct tensor *demand;
    bool writing;
    uint64_t ahead;            /* bytes brought and not used yet */
};

static uint64_t transfer_ns(uint64_t bytes)
{
    return (uint64_t)((double)bytes * 1e9 / (double)RATE);
}

static void job_begin(struct model *m, struct tensor *x, bool writing)
{
    policy_remove(&m->r.policy, &x->node);
    x->leaving = writing;
    x->coming = !writing;
    m->job = x;
    m->writing = writing;
    m->disk_free += transfer_ns(x->bytes);
    *(writing ? &m->r.wrote[m->r.s] : &m->r.read[m->r.s]) += x->bytes;
}

static void job_end(struct model *m)
{
    struct tensor *x = m->job;
    m->job = NULL;
    if (!x) {
        fprintf(stderr, "policy: the model waits for a disk that has nothing to do\n");
        exit(1);
    }
    if (x->gone)
        return;
    if (m->writing) {
        x->leaving = false;
        x->dirty = false;
    } else {
        x->coming = false;
        policy_arrived(&m->r.policy, &x->node, x->early);
    }
    policy_add(&m->r.policy, &x->node, x->dirty);
}

static void not_early(struct model *m, struct tensor *x)
{
    m->ahead -= x->early ? x->bytes : 0;
    x->early = false;
}

/* Makes room or starts to; true: there is room. `begun`: the disk is busy. */
static bool room(struct model *m, uint64_t bytes, const uint64_t *when, bool *begun)
{
    struct replay *r = &m->r;
    while (r->held + bytes > r->t->budget) {
        struct policy_node *n = when ? policy_victim_for(&r->policy, false, *when)
                                     : policy_victim(&r->policy, false);
        if (!n)
            return false;
        struct tensor *x = replay_tensor(n);
        if (x->dirty && m->job)
            return false;
        if (x->dirty) {
            job_begin(m, x, true);
            *begun = true;
            return false;
        }
        not_early(m, x);
        replay_drop(r, x);
        policy_evicted(&r->policy, n);
    }
    return true;
}

static bool read_begin(struct model *m, struct tensor *x, const uint64_t *when)
{
    bool begun = false;
    if (room(m, x->bytes, when, &begun)) {
        x->resident = true;
        m->r.held += x->bytes;
        job_begin(m, x, false);
        return true;
    }
    return begun;
}

static bool prefetch(struct model *m)
{
    struct replay *r = &m->r;
    struct schedule_cursor c;
    struct schedule_coming u, first = {.item = NULL};
    uint64_t bytes = 0;
    if (!policy_foresees(&r->policy))
        return false;
    schedule_coming(&r->schedule, &c);
    for (int looks = 0; looks < 1024 && schedule_coming_next(&c, &u); looks++) {
        struct tensor *x = (struct tensor *)(void *)((char *)u.item - offsetof(struct tensor, item));
        if (x->resident || x->coming || x->gone || (u.mode & TERRACE_OVERWRITE) || u.when != u.item->next)
            continue;
        bytes += x->bytes;
        if (!first.item)
            first = u;
        if (m->ahead + bytes > r->t->budget / 2)
            break;
        if (policy_early(u.ns, bytes, RATE))
            continue;
        x = (struct tensor *)(void *)((char *)first.item - offsetof(struct tensor, item));
        if (!read_begin(m, x, &first.when))
            return false;
        if (!m->writing) {
            x->early = true;
            m->ahead += x->bytes;
        }
        return true;
    }
    return false;
}

static bool write_ahead(struct model *m)
{
    struct replay *r = &m->r;
    uint64_t want = r->t->budget / 16, spare = r->t->budget - r->held;
    if (want <= spare)
        return false;
    struct policy_node *n = policy_dirty_within(&r->policy, want - spare);
    if (n)
        job_begin(m, replay_tensor(n), true);
    return n != NULL;
}

static bool disk_next(struct model *m)
{
    if (m->demand && !m->demand->resident && !m->demand->coming)
        return read_begin(m, m->demand, NULL);
    if (m->r.way != WAY_LEARNED)
        return false;
    return prefetch(m) || write_ahead(m);
}

/* Lets the disk work until then. */
static void disk_until(struct model *m, uint64_t until)
{
    while (m->job ? m->disk_free <= until : m->disk_free < until) {
        if (m->job)
            job_end(m);
        else if (m->disk_free < m->now)
            m->disk_free = m->now;
        if (m->demand && m->demand->resident && !m->demand->coming)
            return;
        if (!disk_next(m)) {
            m->disk_free = until;
            return;
        }
    }
}

static void model_use(struct model *m, size_t at)
{
    struct replay *r = &m->r;
    const struct op *o = &r->t->op[at];
    struct tensor *x = &r->tensor[o->item];
    uint64_t begin = m->now;
    if (!x->resident || x->coming) {
        m->demand = x;
        bool begun = false;
        if (o->mode == O && !x->coming) { /* only room is needed */
            while (!room(m, x->bytes, NULL, &begun)) {
                if (m->disk_free < m->now)
                    m->disk_free = m->now;
                m->now = m->disk_free;
                job_end(m);
                begun = false;
            }
            x->resident = true;
            r->held += x->bytes;
            policy_arrived(&r->policy, &x->node, false);
        }
        while (!x->resident || x->coming) {
            if (!m->job) {
                m->disk_free = m->disk_free < m->now ? m->now : m->disk_free;
                disk_next(m);
            }
            m->now = m->disk_free > m->now ? m->disk_free : m->now;
            job_end(m);
        }
        m->demand = NULL;
    }
    m->stalled += m->now - begin;
    not_early(m, x);
    if (!x->leaving)
        policy_remove(&r->policy, &x->node);
    policy_used(&r->policy, &x->node);
    if (r->way == WAY_LEARNED)
        schedule_use(&r->schedule, &x->item, 0, o->mode, m->now - m->stalled + 1);
    uint64_t end = m->now + (uint64_t)((double)o->ns * m->scale);
    disk_until(m, end);
    m->now = end;
    while (x->leaving && o->mode != R) { /* it changes while it is written: again later */
        m->now = m->disk_free > m->now ? m->disk_free : m->now;
        job_end(m);
    }
    x->dirty |= o->mode != R;
    policy_used(&r->policy, &x->node);
    if (!x->leaving) {
        policy_remove(&r->policy, &x->node);
        policy_add(&r->policy, &x->node, x->dirty);
    }
}

double clock_model(const struct trace *t, enum way way, double scale, unsigned from)
{
    struct model m = {.scale = scale};
    uint64_t start = 0;
    replay_open(&m.r, t, way);
    for (size_t i = 0; i < t->ops; i++)
        switch (t->op[i].kind) {
        case OP_NEW:
            replay_new(&m.r, t->op[i].item);
            break;
        case OP_FREE:
            not_early(&m, &m.r.tensor[t->op[i].item]);
            replay_free(&m.r, t->op[i].item);
            break;
        case OP_USE:
            model_use(&m, i);
            break;
        case OP_CHANCE:
            break;
        default:
            if (!t->unmarked)
                schedule_step(&m.r.schedule, m.now - m.stalled + 1);
            if (++m.r.s == from)
                start = m.now;
        }
    double seconds = (double)(m.now - start) / 1e9 / (t->steps - from);
    replay_close(&m.r);
    return seconds;
}
