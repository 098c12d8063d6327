/* policy.c - misses of the learned schedule, replayed without I/O.
 *
 * Traces of what training and inference do are replayed against a memory of a
 * given size, by the library's own schedule and policy, by LRU, by 2Q, by Belady
 * (which sees the future) and against the bound of bytes that may be evicted one
 * by one. Then a model with a clock: compute between uses, a disk whose rate
 * reads and writes share, prefetch and write-back as the policy says, next to
 * the bound max(compute, (R + W) / rate). Last, what learning costs per use.
 *
 * Usage: policy [--dump TRACE]; prints a table to stderr and one JSON object to
 * stdout. A dump is the input of bench/bound.py. */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy.h"
#include "terrace.h"

enum { MOST_STEPS = 64 };
static const uint64_t MIB = 1 << 20;
static const uint64_t RATE = 2000000000; /* of the model's disk, bytes per second */

/* ---- traces ------------------------------------------------------------ */

enum op_kind { OP_NEW, OP_USE, OP_FREE, OP_STEP };

struct op {
    enum op_kind kind;
    unsigned item, mode;
    uint64_t ns; /* computed after the use */
};

struct trace {
    const char *name;
    struct op *op;
    size_t ops, room;
    uint64_t *bytes; /* by item */
    unsigned items, items_room;
    unsigned steps;
    uint64_t budget;
    bool equal;    /* sizes */
    bool random;   /* nothing to learn */
    bool unmarked; /* the program says nothing of steps */
    unsigned learned; /* steps, after which it is to be known */
};

static void *must(void *p)
{
    if (!p) {
        fprintf(stderr, "policy: no memory\n");
        exit(1);
    }
    return p;
}

static void add(struct trace *t, struct op op)
{
    if (t->ops == t->room) {
        t->room = t->room ? 2 * t->room : 4096;
        t->op = must(realloc(t->op, t->room * sizeof *t->op));
    }
    t->op[t->ops++] = op;
}

static unsigned make(struct trace *t, uint64_t bytes)
{
    if (t->items == t->items_room) {
        t->items_room = t->items_room ? 2 * t->items_room : 1024;
        t->bytes = must(realloc(t->bytes, t->items_room * sizeof *t->bytes));
    }
    t->bytes[t->items] = bytes;
    add(t, (struct op){.kind = OP_NEW, .item = t->items});
    return t->items++;
}

static void use(struct trace *t, unsigned item, unsigned mode, uint64_t us)
{
    add(t, (struct op){.kind = OP_USE, .item = item, .mode = mode, .ns = us * 1000});
}

static void gone(struct trace *t, unsigned item)
{
    add(t, (struct op){.kind = OP_FREE, .item = item});
}

static void step(struct trace *t)
{
    add(t, (struct op){.kind = OP_STEP});
    t->steps++;
}

static uint64_t random_state = 88172645463325252u;
static uint64_t draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

enum { R = TERRACE_READ, W = TERRACE_READ | TERRACE_WRITE, O = TERRACE_OVERWRITE };

/* Adam over pieces: weights and moments are changed, gradients read. */
static void adam(struct trace *t)
{
    enum { PIECES = 64, STEPS = 8 };
    unsigned p[PIECES][4];
    for (int i = 0; i < PIECES; i++)
        for (int k = 0; k < 4; k++)
            p[i][k] = make(t, 8 * MIB);
    t->budget = 700 * MIB;
    for (int s = 0; s < STEPS; s++, step(t))
        for (int i = 0; i < PIECES; i++)
            for (int k = 0; k < 4; k++)
                use(t, p[i][k], k == 3 ? R : W, 800);
}

/* A transformer: forward, backward with activations, optimizer. */
struct gpt {
    struct trace *t;
    unsigned layers, parts;
    unsigned weight[32][4], gradient[32][4], moment[32][4], act[32][3];
};

static void gpt_make(struct gpt *g, unsigned layers, bool optimizer)
{
    static const uint64_t part[] = {12, 4, 16, 16};
    g->layers = layers;
    for (unsigned l = 0; l < layers; l++)
        for (unsigned k = 0; k < 4; k++) {
            g->weight[l][k] = make(g->t, part[k] * MIB);
            if (optimizer) {
                g->gradient[l][k] = make(g->t, part[k] * MIB);
                g->moment[l][k] = make(g->t, 2 * part[k] * MIB);
            }
        }
}

/* Forward and, with `train`, backward; batch scales the activations. */
static void gpt_pass(struct gpt *g, uint64_t batch, bool train, bool first)
{
    static const uint64_t act[] = {4, 13, 7};
    struct trace *t = g->t;
    for (unsigned l = 0; l < g->layers; l++)
        for (unsigned k = 0; k < 3; k++) {
            use(t, g->weight[l][k], R, 4000);
            if (k == 2)
                use(t, g->weight[l][3], R, 4000);
            g->act[l][k] = make(t, act[k] * batch * MIB / 4);
            use(t, g->act[l][k], O, 1000);
            if (!train && (l || k)) /* only the last is needed */
                gone(t, k ? g->act[l][k - 1] : g->act[l - 1][2]);
        }
    if (!train)
        gone(t, g->act[g->layers - 1][2]);
    for (unsigned l = g->layers; train && l--;)
        for (unsigned k = 3; k--;) {
            use(t, g->act[l][k], R, 1000);
            use(t, g->weight[l][k], R, 6000);
            use(t, g->gradient[l][k], first ? O : W, 2000);
            if (k == 2) {
                use(t, g->weight[l][3], R, 6000);
                use(t, g->gradient[l][3], first ? O : W, 2000);
            }
            gone(t, g->act[l][k]);
        }
}

static void gpt_update(struct gpt *g)
{
    for (unsigned l = 0; l < g->layers; l++)
        for (unsigned k = 0; k < 4; k++) {
            use(g->t, g->gradient[l][k], R, 500);
            use(g->t, g->moment[l][k], W, 500);
            use(g->t, g->weight[l][k], W, 1000);
        }
}

static void gpt_of(struct trace *t, uint64_t budget, unsigned steps)
{
    struct gpt g = {.t = t};
    gpt_make(&g, 24, true);
    t->budget = budget * MIB;
    for (unsigned s = 0; s < steps; s++, step(t)) {
        gpt_pass(&g, 4, true, true);
        gpt_update(&g);
    }
}

static void gpt_half(struct trace *t)
{
    gpt_of(t, 2500, 8);
}

static void gpt_quarter(struct trace *t)
{
    gpt_of(t, 1250, 8);
}

/* What examples/gpt.c does: weights are updated as soon as their gradient, in
 * one tensor for all layers, is there. */
static void trainer_of(struct trace *t, uint64_t budget)
{
    enum { LAYERS = 11, STEPS = 8, UNIT = 2359296, TOKENS = 1572864 };
    static const unsigned part[] = {3, 1, 4, 4}, act[] = {1, 3, 1, 1, 4};
    unsigned weight[LAYERS][4], moment[LAYERS][4][2], gradient[4], kept[LAYERS][5];
    for (int k = 0; k < 4; k++)
        gradient[k] = make(t, (uint64_t)part[k] * UNIT);
    for (int l = 0; l < LAYERS; l++)
        for (int k = 0; k < 4; k++) {
            weight[l][k] = make(t, (uint64_t)part[k] * UNIT);
            moment[l][k][0] = make(t, (uint64_t)part[k] * UNIT);
            moment[l][k][1] = make(t, (uint64_t)part[k] * UNIT);
        }
    t->budget = budget * MIB;
    for (int s = 0; s < STEPS; s++, step(t)) {
        for (int l = 0; l < LAYERS; l++)
            for (int half = 0; half < 2; half++) {
                use(t, weight[l][2 * half], R, 0);
                use(t, weight[l][2 * half + 1], R, 0);
                for (int k = half ? 3 : 0; k < (half ? 5 : 3); k++) {
                    kept[l][k] = make(t, (uint64_t)act[k] * TOKENS);
                    use(t, kept[l][k], O, 1000 * part[2 * half]);
                }
            }
        for (int l = LAYERS; l--;)
            for (int half = 2; half--;) {
                for (int k = half ? 3 : 0; k < (half ? 5 : 3); k++)
                    use(t, kept[l][k], R, 0);
                for (int k = 2 * half + 2; k-- > 2 * half;) {
                    use(t, weight[l][k], R, 0);
                    use(t, gradient[k], O, 2500 * part[k]);
                    use(t, moment[l][k][0], W, 0);
                    use(t, moment[l][k][1], W, 500 * part[k]);
                    use(t, weight[l][k], W, 0);
                }
                for (int k = half ? 3 : 0; k < (half ? 5 : 3); k++)
                    gone(t, kept[l][k]);
            }
    }
}

static void trainer_half(struct trace *t)
{
    trainer_of(t, 570);
}

static void trainer_quarter(struct trace *t)
{
    trainer_of(t, 285);
}

static void trainer_eighth(struct trace *t)
{
    trainer_of(t, 143);
}

static void inference(struct trace *t)
{
    struct gpt g = {.t = t};
    gpt_make(&g, 32, false);
    t->budget = 768 * MIB;
    for (int s = 0; s < 10; s++, step(t))
        for (unsigned l = 0; l < g.layers; l++)
            for (unsigned k = 0; k < 4; k++)
                use(t, g.weight[l][k], R, 3000);
}

static void accumulate(struct trace *t)
{
    struct gpt g = {.t = t};
    gpt_make(&g, 16, true);
    t->budget = 1200 * MIB;
    for (int s = 0; s < 8; s++, step(t)) {
        for (int micro = 0; micro < 4; micro++)
            gpt_pass(&g, 2, true, micro == 0);
        gpt_update(&g);
    }
}

/* An evaluation after every third step of training. */
static void train_eval(struct trace *t)
{
    struct gpt g = {.t = t};
    gpt_make(&g, 16, true);
    t->budget = 1200 * MIB;
    for (int s = 0; s < 24; s++, step(t)) {
        bool eval = s % 4 == 3;
        gpt_pass(&g, 4, !eval, true);
        if (!eval)
            gpt_update(&g);
    }
}

/* Batches of another length in every step: activations of other sizes and, with
 * `most` 2, one or two passes, as chance will have it. */
static void batches_of(struct trace *t, uint64_t most)
{
    struct gpt g = {.t = t};
    gpt_make(&g, 16, true);
    t->budget = 1200 * MIB;
    for (int s = 0; s < 24; s++, step(t)) {
        for (uint64_t passes = draw(most) + 1; passes--;)
            gpt_pass(&g, 2 + draw(6), true, true);
        gpt_update(&g);
    }
}

static void batches(struct trace *t)
{
    batches_of(t, 1);
}

static void batches_random(struct trace *t)
{
    batches_of(t, 2);
    t->random = true;
}

/* From step 10 on the layers are used in another order, and more of them. */
static void changed(struct trace *t)
{
    enum { N = 200, STEPS = 20 };
    unsigned item[N];
    for (int i = 0; i < N; i++)
        item[i] = make(t, 4 * MIB);
    t->budget = 300 * MIB;
    for (int s = 0; s < STEPS; s++, step(t))
        for (int i = 0; i < (s < 10 ? 150 : N); i++)
            use(t, item[s < 10 ? i : i * 7 % N], i % 2 ? W : R, 1000);
}

/* Two threads that take turns as chance will have it. */
static void threads(struct trace *t)
{
    enum { N = 150 };
    unsigned item[2][N];
    for (int i = 0; i < 2 * N; i++)
        item[i / N][i % N] = make(t, 4 * MIB);
    t->budget = 400 * MIB;
    for (int s = 0; s < 12; s++, step(t))
        for (int at[2] = {0, 0}; at[0] < N || at[1] < N;) {
            int k = at[0] >= N || (at[1] < N && at[0] - at[1] + (int)draw(9) - 4 > 0);
            use(t, item[k][at[k]++], R, 1000);
        }
}

static void random_of(struct trace *t, bool zipf)
{
    enum { N = 1000, USES = 40000 };
    unsigned item[N];
    double sum[N], total = 0;
    for (int i = 0; i < N; i++) {
        item[i] = make(t, MIB);
        sum[i] = total += zipf ? 1.0 / (i + 1) : 1.0;
    }
    t->budget = 400 * MIB;
    t->random = true;
    for (int i = 0; i < USES; i++) {
        double x = (double)draw(1u << 30) / (1u << 30) * total;
        int k = 0;
        for (int half = 512; half; half /= 2)
            if (k + half < N && sum[k + half - 1] <= x)
                k += half;
        use(t, item[k], draw(4) ? R : W, 100);
        if (i % 2500 == 2499)
            step(t);
    }
}

static void uniform(struct trace *t)
{
    random_of(t, false);
}

static void zipf(struct trace *t)
{
    random_of(t, true);
}

static const struct scene {
    const char *name;
    void (*make)(struct trace *t);
    bool equal;
    unsigned learned; /* steps */
    bool unmarked;
} scenes[] = {
    {"adam", adam, true, 2, false},
    {"adam-unmarked", adam, true, 3, true},
    {"gpt-half", gpt_half, false, 2, false},
    {"gpt-quarter", gpt_quarter, false, 2, false},
    {"gpt-quarter-unmarked", gpt_quarter, false, 3, true},
    {"trainer-half", trainer_half, false, 2, false},
    {"trainer-quarter", trainer_quarter, false, 2, false},
    {"trainer-eighth", trainer_eighth, false, 2, false},
    {"inference", inference, false, 2, false},
    {"inference-unmarked", inference, false, 3, true},
    {"accumulate", accumulate, false, 3, false},
    {"accumulate-unmarked", accumulate, false, 4, true},
    {"train-eval", train_eval, false, 8, false},
    {"train-eval-unmarked", train_eval, false, 12, true},
    {"batches", batches, false, 2, false},
    {"batches-random", batches_random, false, 2, false},
    {"changed", changed, true, 13, false},
    {"threads", threads, true, 2, false},
    {"uniform", uniform, true, 2, false},
    {"uniform-unmarked", uniform, true, 2, true},
    {"zipf", zipf, true, 2, false},
    {"zipf-unmarked", zipf, true, 2, true},
};
enum { SCENES = sizeof scenes / sizeof scenes[0] };

static struct trace trace_of(const struct scene *scene)
{
    struct trace t = {.name = scene->name, .equal = scene->equal, .learned = scene->learned,
                      .unmarked = scene->unmarked};
    random_state = 88172645463325252u;
    scene->make(&t);
    return t;
}

static void trace_free(struct trace *t)
{
    free(t->op);
    free(t->bytes);
}

static void dump(const struct trace *t)
{
    printf("budget %llu\nrate %llu\n", (unsigned long long)t->budget, (unsigned long long)RATE);
    for (size_t i = 0; i < t->ops; i++) {
        const struct op *o = &t->op[i];
        switch (o->kind) {
        case OP_NEW:
            printf("new %u %llu\n", o->item, (unsigned long long)t->bytes[o->item]);
            break;
        case OP_USE:
            printf("use %u %s %llu\n", o->item, o->mode == R ? "r" : o->mode == O ? "o" : "w",
                   (unsigned long long)o->ns);
            break;
        case OP_FREE:
            printf("free %u\n", o->item);
            break;
        default:
            printf("step\n");
        }
    }
}

/* ---- what really comes next -------------------------------------------- */

/* For every use the index of the item's next use; SIZE_MAX: none, or freed. */
static size_t *future(const struct trace *t)
{
    size_t *next = must(calloc(t->ops, sizeof *next));
    size_t *known = must(malloc(t->items * sizeof *known));
    memset(known, 0xff, t->items * sizeof *known);
    for (size_t i = t->ops; i--;) {
        const struct op *o = &t->op[i];
        if (o->kind == OP_USE) {
            next[i] = known[o->item];
            known[o->item] = i;
        }
    }
    free(known);
    return next;
}

/* Where nothing is to be gained from keeping the bytes. */
static bool worthless(const struct trace *t, size_t next)
{
    return next == SIZE_MAX || t->op[next].mode == O;
}

/* ---- the fractional bound ----------------------------------------------- */

/* Bytes read per step if every byte may be evicted on its own, the furthest
 * next use first. */
static void fractional(const struct trace *t, uint64_t *read)
{
    size_t *next = future(t);
    size_t *due = must(malloc(t->items * sizeof *due));
    uint64_t *in = must(calloc(t->items, sizeof *in)), held = 0;
    unsigned s = 0;
    for (unsigned i = 0; i < t->items; i++)
        due[i] = SIZE_MAX;
    for (size_t i = 0; i < t->ops; i++) {
        const struct op *o = &t->op[i];
        s += o->kind == OP_STEP;
        if (o->kind == OP_FREE) {
            held -= in[o->item];
            in[o->item] = 0;
        }
        if (o->kind != OP_USE)
            continue;
        uint64_t want = t->bytes[o->item] - in[o->item];
        read[s] += o->mode == O ? 0 : want;
        in[o->item] += want;
        held += want;
        while (held > t->budget) {
            unsigned worst = o->item;
            for (unsigned k = 0; k < t->items; k++)
                if (k != o->item && in[k] && (worst == o->item || due[k] > due[worst]))
                    worst = k;
            uint64_t out = held - t->budget < in[worst] ? held - t->budget : in[worst];
            in[worst] -= out;
            held -= out;
        }
        due[o->item] = worthless(t, next[i]) ? SIZE_MAX : next[i];
    }
    free(next);
    free(due);
    free(in);
}

/* ---- replay of whole tensors -------------------------------------------- */

enum way { WAY_LRU, WAY_2Q, WAY_LEARNED, WAY_BELADY, WAYS };
static const char *const way_name[] = {"lru", "2q", "learned", "belady"};

struct tensor {
    struct policy_node node;
    struct schedule_item item;
    uint64_t bytes;
    bool resident, dirty, written, gone; /* written: the disk has the bytes */
    bool coming, leaving;    /* the model: its transfer is under way */
    bool early;              /* brought ahead of its use */
    size_t next;  /* belady: its next use */
    uint64_t done; /* the model: when its transfer ends */
};

struct replay {
    const struct trace *t;
    enum way way;
    struct policy policy;
    struct schedule schedule;
    struct tensor *tensor;
    uint64_t held;
    uint64_t read[MOST_STEPS], wrote[MOST_STEPS];
    unsigned s;
};

static void replay_open(struct replay *r, const struct trace *t, enum way way)
{
    *r = (struct replay){.t = t, .way = way};
    r->tensor = must(calloc(t->items, sizeof *r->tensor));
    schedule_init(&r->schedule);
    policy_init(&r->policy, way == WAY_LRU ? POLICY_LRU : POLICY_AUTO, t->budget);
    if (way == WAY_LEARNED)
        policy_follow(&r->policy, &r->schedule);
}

static void replay_close(struct replay *r)
{
    schedule_free(&r->schedule);
    free(r->tensor);
}

static struct tensor *tensor_of(struct policy_node *n)
{
    return n ? (struct tensor *)(void *)((char *)n - offsetof(struct tensor, node)) : NULL;
}

static struct tensor *victim(struct replay *r)
{
    struct tensor *best = NULL;
    if (r->way != WAY_BELADY)
        return tensor_of(policy_victim(&r->policy, false));
    for (unsigned i = 0; i < r->t->items; i++) {
        struct tensor *x = &r->tensor[i];
        if (x->resident && x->node.listed && (!best || x->next > best->next))
            best = x;
    }
    return best;
}

static void drop(struct replay *r, struct tensor *x)
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
    drop(r, x);
    policy_evicted(&r->policy, &x->node);
}

static void replay_new(struct replay *r, unsigned item)
{
    struct tensor *x = &r->tensor[item];
    x->bytes = x->node.bytes = r->t->bytes[item];
    x->node.item = &x->item;
    schedule_created(&r->schedule, &x->item, NULL, x->bytes);
}

static void replay_free(struct replay *r, unsigned item)
{
    drop(r, &r->tensor[item]);
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
    x->next = worthless(r->t, next[at]) ? SIZE_MAX : next[at];
    x->dirty |= o->mode != R;
    policy_used(&r->policy, &x->node);
    policy_add(&r->policy, &x->node, x->dirty);
}

static void replay(const struct trace *t, enum way way, uint64_t *read, uint64_t *wrote)
{
    struct replay r;
    size_t *next = future(t);
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

static uint64_t sum(const uint64_t *v, unsigned from, unsigned to)
{
    uint64_t n = 0;
    for (unsigned i = from; i < to; i++)
        n += v[i];
    return n;
}

/* ---- the model with a clock ---------------------------------------------- */

enum { MODELS = 3 };
static const double model_compute[MODELS] = {1, 2, 3}; /* compute, of the disk's time by the bound */

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
        struct tensor *x = tensor_of(n);
        if (x->dirty && m->job)
            return false;
        if (x->dirty) {
            job_begin(m, x, true);
            *begun = true;
            return false;
        }
        not_early(m, x);
        drop(r, x);
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
        job_begin(m, tensor_of(n), true);
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

/* Seconds of an average step from `from` on. */
static double model(const struct trace *t, enum way way, double scale, unsigned from)
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

/* Bytes that have to be written in a step: what it changes and is there at the
 * same time, less the budget. */
static void write_bound(const struct trace *t, uint64_t *wrote)
{
    unsigned *in = must(calloc(t->items, sizeof *in));
    uint64_t changed = 0, most = 0;
    unsigned s = 0;
    for (size_t i = 0; i < t->ops; i++) {
        const struct op *o = &t->op[i];
        if (o->kind == OP_USE && o->mode != R && in[o->item] != s + 1) {
            in[o->item] = s + 1;
            changed += t->bytes[o->item];
            most = changed > most ? changed : most;
        } else if (o->kind == OP_FREE && in[o->item] == s + 1) {
            changed -= t->bytes[o->item];
        } else if (o->kind == OP_STEP) {
            wrote[s++] = most > t->budget ? most - t->budget : 0;
            changed = most = 0;
        }
    }
    free(in);
}

/* ---- the table ----------------------------------------------------------- */

static double ratio(uint64_t a, uint64_t b)
{
    return b ? (double)a / (double)b : a ? 999.0 : 1.0;
}

static uint64_t computed(const struct trace *t, unsigned from)
{
    uint64_t ns = 0;
    unsigned s = 0;
    for (size_t i = 0; i < t->ops; i++) {
        s += t->op[i].kind == OP_STEP;
        if (t->op[i].kind == OP_USE && s >= from)
            ns += t->op[i].ns;
    }
    return ns;
}

/* How the replay went, in bytes per step once it has been learned. */
struct outcome {
    double read[WAYS], wrote[WAYS], bound_read, bound_written;
    double of_best;  /* read once learned, of what Belady reads (equal sizes) or the bound */
    double of_lru;   /* read while learning, of what LRU reads */
    double all_lru;  /* read in all, of what LRU reads */
    double seconds[MODELS], lru_seconds[MODELS], bound_seconds[MODELS];
};

static double average(const uint64_t *v, unsigned from, unsigned to)
{
    return (double)sum(v, from, to) / (to - from);
}

static void misses(const struct trace *t, struct outcome *o)
{
    uint64_t read[WAYS][MOST_STEPS], wrote[WAYS][MOST_STEPS];
    uint64_t bound_read[MOST_STEPS] = {0}, bound_wrote[MOST_STEPS] = {0};
    unsigned from = t->learned, to = t->steps;
    fractional(t, bound_read);
    write_bound(t, bound_wrote);
    for (int way = 0; way < WAYS; way++) {
        replay(t, (enum way)way, read[way], wrote[way]);
        o->read[way] = average(read[way], from, to);
        o->wrote[way] = average(wrote[way], from, to);
    }
    o->bound_read = average(bound_read, from, to);
    o->bound_written = average(bound_wrote, from, to);
    o->of_best = ratio(sum(read[WAY_LEARNED], from, to), sum(t->equal ? read[WAY_BELADY] : bound_read, from, to));
    o->of_lru = ratio(sum(read[WAY_LEARNED], 0, from), sum(read[WAY_LRU], 0, from));
    o->all_lru = ratio(sum(read[WAY_LEARNED], 0, to), sum(read[WAY_LRU], 0, to));
}

static void times(const struct trace *t, struct outcome *o)
{
    unsigned from = t->learned;
    double disk = (o->bound_read + o->bound_written) / (double)RATE;
    double compute = (double)computed(t, from) / 1e9 / (t->steps - from);
    for (int i = 0; i < MODELS; i++) {
        double scale = model_compute[i] * disk / compute;
        o->seconds[i] = model(t, WAY_LEARNED, scale, from);
        o->lru_seconds[i] = model(t, WAY_LRU, scale, from);
        o->bound_seconds[i] = model_compute[i] > 1 ? model_compute[i] * disk : disk;
    }
}

static void print(const struct trace *t, const struct outcome *o, bool first)
{
    double mib = (double)MIB;
    fprintf(stderr, "%-21s", t->name);
    for (int way = 0; way < WAYS; way++)
        fprintf(stderr, " %5.0f+%-5.0f", o->read[way] / mib, o->wrote[way] / mib);
    fprintf(stderr, " %5.0f+%-5.0f %5.3f %5.3f %5.3f |", o->bound_read / mib, o->bound_written / mib,
            o->of_best, o->of_lru, o->all_lru);
    for (int i = 0; i < MODELS; i++)
        fprintf(stderr, " %5.3f/%-5.2f", o->seconds[i] / o->bound_seconds[i],
                o->lru_seconds[i] / o->bound_seconds[i]);
    fprintf(stderr, "\n");
    printf("%s\n    {\"trace\": \"%s\", \"budget\": %llu, \"equal_sizes\": %s, \"random\": %s, \"from_step\": %u",
           first ? "" : ",", t->name, (unsigned long long)t->budget, t->equal ? "true" : "false",
           t->random ? "true" : "false", t->learned + 1);
    for (int way = 0; way < WAYS; way++)
        printf(", \"%s\": {\"read_bytes\": %.0f, \"written_bytes\": %.0f}", way_name[way],
               o->read[way], o->wrote[way]);
    printf(", \"bound\": {\"read_bytes\": %.0f, \"written_bytes\": %.0f}", o->bound_read, o->bound_written);
    printf(", \"read_of_best\": %.4f, \"read_of_lru_while_learning\": %.4f, \"read_of_lru\": %.4f, \"model\": [",
           o->of_best, o->of_lru, o->all_lru);
    for (int i = 0; i < MODELS; i++)
        printf("%s{\"compute_of_disk\": %.2f, \"seconds\": %.4f, \"lru_seconds\": %.4f, \"bound_seconds\": %.4f}",
               i ? ", " : "", model_compute[i], o->seconds[i], o->lru_seconds[i], o->bound_seconds[i]);
    printf("]}");
}

/* ---- what a use costs ----------------------------------------------------- */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum order { CREATED, SHUFFLED, CHANCE };

/* Median nanoseconds of schedule_use() over rounds of n items each. */
static double use_ns(unsigned n, unsigned rounds, enum order order)
{
    struct schedule s;
    struct schedule_item *item = must(calloc(n, sizeof *item));
    unsigned *turn = must(malloc(n * sizeof *turn));
    double *ns = must(malloc(rounds * sizeof *ns));
    schedule_init(&s);
    for (unsigned i = 0; i < n; i++) {
        schedule_created(&s, &item[i], NULL, MIB);
        turn[i] = i;
    }
    for (unsigned i = n; order == SHUFFLED && i-- > 1;) {
        unsigned k = (unsigned)draw(i + 1), x = turn[i];
        turn[i] = turn[k];
        turn[k] = x;
    }
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; order == CHANCE && i < n; i++)
            turn[i] = (unsigned)draw(n);
        double start = now_ns();
        for (unsigned i = 0; i < n; i++)
            schedule_use(&s, &item[turn[i]], 0, R, 0);
        ns[round] = (now_ns() - start) / n;
    }
    qsort(ns, rounds, sizeof *ns, by_value);
    double median = ns[rounds / 2];
    schedule_free(&s);
    free(item);
    free(turn);
    free(ns);
    return median;
}

static void costs(void)
{
    double learned = use_ns(1000, 1001, SHUFFLED), chance = use_ns(1000, 1001, CHANCE);
    double learning = use_ns(1000, 9, CHANCE), many = use_ns(1000000, 9, CREATED);
    fprintf(stderr, "\na use, ns: %.1f in a learned order of 1,000; %.1f by chance (%.1f until that is noticed); "
            "%.1f for 1,000,000 in creation order\n", learned, chance, learning, many);
    printf("  \"use_ns\": {\"learned\": %.1f, \"chance\": %.1f, \"learning\": %.1f, \"million\": %.1f}\n",
           learned, chance, learning, many);
}

int main(int argc, char **argv)
{
    const char *wanted = argc == 3 && !strcmp(argv[1], "--dump") ? argv[2] : NULL;
    if (argc > 1 && !wanted) {
        fprintf(stderr, "usage: policy [--dump TRACE]\n");
        return 2;
    }
    if (!wanted) {
        fprintf(stderr, "MiB read+written per step, once learned; read: of the best possible, of LRU while\n"
                "learning, of LRU in all | time of the bound, learned/LRU on demand, at compute %.0f, %.0f and %.0f x disk\n"
                "%-21s %-11s %-11s %-11s %-11s %-11s  best   lru   all\n",
                model_compute[0], model_compute[1], model_compute[2],
                "", "lru", "2q", "learned", "belady", "bound");
        printf("{\n  \"traces\": [");
    }
    bool found = false;
    for (int i = 0; i < SCENES; i++) {
        struct outcome o = {.of_best = 0};
        if (wanted && strcmp(wanted, scenes[i].name) != 0)
            continue;
        struct trace t = trace_of(&scenes[i]);
        found = true;
        if (wanted) {
            dump(&t);
        } else {
            misses(&t, &o);
            times(&t, &o);
            print(&t, &o, i == 0);
        }
        trace_free(&t);
    }
    if (!wanted) {
        printf("\n  ],\n");
        costs();
        printf("}\n");
    } else if (!found) {
        fprintf(stderr, "policy: there is no trace '%s'\n", wanted);
    }
    return found ? 0 : 2;
}
