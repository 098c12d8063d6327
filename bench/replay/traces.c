/* traces.c - what training and inference use, in order, and what comes next. */
#include "replay.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *must(void *p)
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

static void chance(struct trace *t)
{
    add(t, (struct op){.kind = OP_CHANCE});
    t->chances = true;
}

static uint64_t random_state = 88172645463325252u;
uint64_t trace_draw(uint64_t below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % below;
}

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
        for (uint64_t pass = 0, passes = trace_draw(most) + 1; pass < passes; pass++) {
            gpt_pass(&g, 2 + trace_draw(6), true, true);
            if (pass == 0 && most > 1)
                chance(t);
        }
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
            int k = at[0] >= N || (at[1] < N && at[0] - at[1] + (int)trace_draw(9) - 4 > 0);
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
        double x = (double)trace_draw(1u << 30) / (1u << 30) * total;
        int k = 0;
        for (int half = 512; half; half /= 2)
            if (k + half < N && sum[k + half - 1] <= x)
                k += half;
        use(t, item[k], trace_draw(4) ? R : W, 100);
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

const char *scene_name(int scene)
{
    return scene < SCENES ? scenes[scene].name : NULL;
}

struct trace trace_of(int number)
{
    const struct scene *scene = &scenes[number];
    struct trace t = {.name = scene->name, .equal = scene->equal, .learned = scene->learned,
                      .unmarked = scene->unmarked};
    random_state = 88172645463325252u;
    scene->make(&t);
    return t;
}

void trace_free(struct trace *t)
{
    free(t->op);
    free(t->bytes);
}

void trace_dump(const struct trace *t)
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
        case OP_CHANCE:
            break;
        case OP_FREE:
            printf("free %u\n", o->item);
            break;
        default:
            printf("step\n");
        }
    }
}

size_t *trace_future(const struct trace *t)
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

bool trace_worthless(const struct trace *t, size_t next)
{
    return next == SIZE_MAX || t->op[next].mode == O;
}
