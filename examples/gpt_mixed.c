/* gpt_mixed.c - who computes where in gpt_mixed, and what is asked of them.
 *
 * Where rules put weights and moments is found out by acquiring a tensor of each role;
 * no tier is named here. What computes there is an engine (gpt_mixed_engine.h). All run
 * the kernels of gpt_mixed.cl, so that results are the same bits on all of them. */
#define _DEFAULT_SOURCE
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <terrace.h>

#define GPT_MIXED
#include "gpt_compute.h"
#include "gpt_mixed_engine.h"

/* ---- the kernels as C ---------------------------------------------------- */

static __thread size_t item;

#define kernel static
#define global
#define get_global_id(dimension) item

static inline uint as_uint(float x)
{
    uint bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

static inline float as_float(uint bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

#define GPT_MIXED_KERNELS
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wunused-parameter"
#include "gpt_mixed.cl"
#pragma GCC diagnostic pop
#undef kernel
#undef global

void work_do(const work *w, size_t first, size_t last)
{
    static void (*const function[KERNEL_COUNT])(float *, float *, float *, float *, float *, const numbers) = {
#define ENTRY(name) name,
        KERNELS(ENTRY)
#undef ENTRY
    };
    void *const *at = w->array;
    for (item = first; item < last; item++)
        function[w->kernel](at[0], at[1], at[2], at[3], at[4], w->n);
}

/* ---- the host's processors ----------------------------------------------- */

static const char *host_open(void *array, void **stream)
{
    (void)array;
    *stream = TERRACE_HOST_SYNC;
    return NULL;
}

static void host_close(void) {}

static void host_run(const work *w)
{
    const size_t part = 64;
    long parts = (long)((w->items + part - 1) / part);
#pragma omp parallel for schedule(static)
    for (long p = 0; p < parts; p++)
        work_do(w, (size_t)p * part, smaller(w->items, ((size_t)p + 1) * part));
}

static void *host_take(size_t bytes) { return aligned_alloc(64, round_up(bytes, 64)); }
static void host_copy(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
static void host_zero(void *to, size_t bytes) { memset(to, 0, bytes); }

static const engine engine_host = {.open = host_open, .close = host_close, .run = host_run,
                                   .take = host_take, .give = free, .put = host_copy,
                                   .get = host_copy, .copy = host_copy, .zero = host_zero};

/* ---- by the rules -------------------------------------------------------- */

static const engine *here; /* of the weights */

void engine_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs(PROGRAM ": ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

static const engine *engine_for(const terrace_tier_statistics *s)
{
    if (strcmp(s->tier_class, "host") == 0)
        return &engine_host;
    if (strcmp(s->kind, engine_opencl.kind) == 0)
        return &engine_opencl;
    return &engine_linked && strcmp(s->kind, engine_linked.kind) == 0 ? &engine_linked : NULL;
}

/* Acquires it in the memory of a device or, where rules allow none, of the host. */
static int acquire_somewhere(terrace *m, terrace_tensor *t, void **array, terrace_tier *where)
{
    static const char *const classes[] = {"device", "host"};
    int r = 0;
    for (int i = 0; i < 2; i++) {
        terrace_tier class;
        r = terrace_tier_find(m, classes[i], &class);
        if (r == 0)
            r = terrace_acquire(t, class, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, array, where);
        if (r != -TERRACE_ENOENT && r != -TERRACE_ERULE)
            break;
    }
    return r;
}

/* Begins to compute where such a tensor is. */
static const char *side_open(side *s, terrace *m, terrace_tensor *t, const char *what)
{
    static char why[500];
    terrace_tier_statistics tier = {.size = sizeof tier};
    void *array;
    if (acquire_somewhere(m, t, &array, &s->tier) || terrace_tier_stats(m, s->tier, &tier))
        return terrace_last_error();
    s->engine = engine_for(&tier);
    snprintf(s->name, sizeof s->name, "%s (%.250s)", tier.name, tier.location ? tier.location : "");
    const char *reason = s->engine ? s->engine->open(array, &s->stream) : "there are no kernels for it here";
    terrace_release(t, array, TERRACE_HOST_SYNC);
    if (!reason)
        return NULL;
    s->engine = NULL;
    snprintf(why, sizeof why, "the rules put %s on %.200s, where this cannot compute: %.150s; TERRACE_RULES can name "
             "other places", what, s->name, reason);
    return why;
}

static const char *side_find(side *s, terrace *m, int role, const char *what)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = PROGRAM "/probe", .role = role};
    terrace_tensor *t;
    if (terrace_tensor_create(m, 1 << 16, &attr, &t))
        return terrace_last_error();
    const char *why = side_open(s, m, t, what);
    terrace_tensor_destroy(t);
    return why;
}

const char *compute_open(compute *c)
{
    const char *why = side_find(&c->weights, c->manager, TERRACE_ROLE_WEIGHT, "weights");
    if (!why && !c->weights.engine->take)
        why = "the rules put weights where this computes nothing but Adam; TERRACE_RULES can name other places";
    if (why)
        return why;
    here = c->weights.engine;
    why = side_find(&c->moments, c->manager, TERRACE_ROLE_OPTIMIZER, "optimizer state");
    if (why)
        return why;
    if (c->moments.engine == here && c->moments.tier != c->weights.tier && here != &engine_host)
        return "the rules put optimizer state on a second device of the weights' kind; this computes on one of a kind";
    snprintf(c->text, sizeof c->text, "weights: %s\noptimizer state: %s", c->weights.name, c->moments.name);
    for (int i = 0; i < 2; i++)
        c->scores[i] = compute_memory(c->heads * c->context * c->context * sizeof(float));
    return c->scores[0] && c->scores[1] ? NULL : "there is no memory for the attention's scores";
}

void compute_close(compute *c)
{
    for (int i = 0; i < 2; i++)
        compute_forget(c->scores[i]);
    if (c->moments.engine != here)
        c->moments.engine->close();
    here->close();
}

size_t compute_bytes(const compute *c)
{
    return 2 * c->heads * c->context * c->context * sizeof(float);
}

const char *compute_products(const compute *c)
{
    return c->text;
}

/* ---- what the trainer calls (see gpt_compute.h) -------------------------- */

void *compute_memory(size_t bytes) { return here->take(bytes); }
void compute_forget(void *memory) { here->give(memory); }
void put(void *to, const void *from, size_t bytes) { here->put(to, from, bytes); }
void get(void *to, const void *from, size_t bytes) { here->get(to, from, bytes); }
void copy(float *to, const float *from, size_t n) { here->copy(to, from, n * sizeof *to); }
void zero(float *to, size_t n) { here->zero(to, n * sizeof *to); }

/* Arrays that are only read are not told apart. */
#define ARRAY(p) ((void *)(uintptr_t)(p))
#define RUN(on, name, count, with, ...)                                                          \
    (on)->run(&(work){.kernel = KERNEL_##name, .items = (count), .array = {__VA_ARGS__}, .n = (with)})

/* Some products of one shape, of the arrays that x, y and z are in. */
static void products(size_t m, size_t n, size_t k, size_t count, int add, const float *a, matrix y, const float *b,
                     matrix z, float *out, matrix x)
{
    const numbers with = {.rows = (uint)m, .width = (uint)n, .inner = (uint)k, .flag = (uint)add, .x = x, .y = y, .z = z};
    RUN(here, product_tile, count * tiles((uint)m) * tiles((uint)n), with, out, ARRAY(a), ARRAY(b));
}

void product(const compute *c, size_t m, size_t n, size_t k, view a, view b, float *out, size_t ld, int add)
{
    (void)c;
    products(m, n, k, 1, add, a.data, (matrix){.row = (uint)a.row, .col = (uint)a.col}, b.data,
             (matrix){.row = (uint)b.row, .col = (uint)b.col}, out, (matrix){.row = (uint)ld, .col = 1});
}

void embed(float *x, const int *inputs, const float *token, const float *position, size_t tokens, size_t width,
           size_t context)
{
    const numbers with = {.rows = (uint)context, .width = (uint)width};
    RUN(here, embed_element, tokens * width, with, x, ARRAY(inputs), ARRAY(token), ARRAY(position));
}

void table_gradient(float *gradient, size_t rows, const float *dx, const int *inputs, size_t tokens, size_t width)
{
    const numbers with = {.rows = (uint)rows, .width = (uint)width, .count = (uint)tokens, .flag = inputs != NULL};
    RUN(here, table_element, rows * width, with, gradient, ARRAY(dx), ARRAY(inputs));
}

void norm_forward(float *out, const float *x, const float *gain, size_t rows, size_t width)
{
    RUN(here, norm_row, rows, (numbers){.width = (uint)width}, out, ARRAY(x), ARRAY(gain));
}

void norm_backward(float *dx, float *dgain, const float *dy, const float *x, const float *gain, float *statistics,
                   size_t rows, size_t width)
{
    const numbers with = {.rows = (uint)rows, .width = (uint)width};
    RUN(here, norm_back_row, rows, with, dx, statistics, ARRAY(dy), ARRAY(x), ARRAY(gain));
    RUN(here, norm_gain_column, width, with, dgain, statistics, ARRAY(dy), ARRAY(x));
}

void gelu_forward(float *out, const float *x, size_t n)
{
    RUN(here, gelu_element, n, (numbers){0}, out, ARRAY(x));
}

void gelu_backward(float *dx, const float *x, size_t n)
{
    RUN(here, gelu_back_element, n, (numbers){0}, dx, ARRAY(x));
}

void cross_entropy(float *logits, const int *targets, loss_value *losses, size_t rows, size_t classes)
{
    const numbers with = {.rows = (uint)rows, .width = (uint)classes};
    RUN(here, cross_entropy_row, rows, with, logits, losses, ARRAY(targets));
}

void adam_moments(const compute *c, float *m, float *v, float *gradient, size_t n, float rate, float unbias)
{
    RUN(c->moments.engine, moments_element, n, ((numbers){.rate = rate, .scale = unbias}), m, v, gradient);
}

void subtract(float *w, const float *change, size_t n)
{
    RUN(here, subtract_element, n, (numbers){0}, w, ARRAY(change));
}

/* ---- attention ----------------------------------------------------------- */

/* Of the heads of a sequence: scores; parts of rows that hold all heads side by side. */
static matrix scores_of(const compute *c, int turned)
{
    uint n = (uint)c->context;
    return (matrix){.row = turned ? 1 : n, .col = turned ? n : 1, .next = n * n};
}

static matrix heads_of(const compute *c, size_t sequence, size_t width, size_t column, int turned)
{
    uint ld = (uint)width;
    return (matrix){.at = (uint)(sequence * c->context * width + column), .row = turned ? 1 : ld,
                    .col = turned ? ld : 1, .next = (uint)(c->width / c->heads)};
}

/* qkv: a row has q, k and v of all heads side by side. */
void attend(const compute *c, float *out, float *logs, const float *qkv)
{
    size_t n = c->context, w = c->width, head = w / c->heads, ld = 3 * w;
    float *p = c->scores[0];
    for (size_t s = 0; s < c->batch; s++) {
        const numbers with = {.width = (uint)n, .scale = 1.0f / sqrtf((float)head), .x.at = (uint)(s * c->heads * n)};
        products(n, n, head, c->heads, 0, qkv, heads_of(c, s, ld, 0, 0), qkv, heads_of(c, s, ld, w, 1), p,
                 scores_of(c, 0));
        RUN(here, attend_row, c->heads * n, with, p, logs);
        products(n, head, n, c->heads, 0, p, scores_of(c, 0), qkv, heads_of(c, s, ld, 2 * w, 0), out,
                 heads_of(c, s, w, 0, 0));
    }
}

void attend_backward(const compute *c, float *dqkv, const float *dout, const float *qkv, const float *out,
                     const float *logs)
{
    size_t n = c->context, w = c->width, head = w / c->heads, ld = 3 * w;
    float *p = c->scores[0], *dp = c->scores[1];
    for (size_t s = 0; s < c->batch; s++) {
        const numbers with = {.width = (uint)n, .inner = (uint)head, .scale = 1.0f / sqrtf((float)head),
                              .x.at = (uint)(s * c->heads * n), .y = heads_of(c, s, w, 0, 0)};
        products(n, n, head, c->heads, 0, qkv, heads_of(c, s, ld, 0, 0), qkv, heads_of(c, s, ld, w, 1), p,
                 scores_of(c, 0));
        products(n, n, head, c->heads, 0, dout, heads_of(c, s, w, 0, 0), qkv, heads_of(c, s, ld, 2 * w, 1), dp,
                 scores_of(c, 0));
        RUN(here, attend_back_row, c->heads * n, with, p, dp, ARRAY(logs), ARRAY(out), ARRAY(dout));
        products(n, head, n, c->heads, 0, dp, scores_of(c, 0), qkv, heads_of(c, s, ld, w, 0), dqkv,
                 heads_of(c, s, ld, 0, 0));
        products(n, head, n, c->heads, 0, dp, scores_of(c, 1), qkv, heads_of(c, s, ld, 0, 0), dqkv,
                 heads_of(c, s, ld, w, 0));
        products(n, head, n, c->heads, 0, p, scores_of(c, 1), dout, heads_of(c, s, w, 0, 0), dqkv,
                 heads_of(c, s, ld, 2 * w, 0));
    }
}
