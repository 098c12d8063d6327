/* gpt.c - trains a byte-level GPT whose state need not fit in memory.
 *
 * A GPT with pre-norm blocks, causal attention and a GELU MLP learns to predict
 * the next byte of a text: float32, forward, backward and Adam, in plain C.
 * Every weight, gradient, Adam moment and saved activation is a terrace tensor.
 * A function names the tensors it needs and how (read, changed, produced),
 * acquires them as one set, computes, and releases them; meanwhile terrace
 * brings what was named next. With --host-limit smaller than the sum of all
 * tensors the rest lives on disk, and the results stay the same to the bit.
 *
 * What lives how long:
 *   weights, moments  always; updated in the backward pass, matrix by matrix
 *   gradients         from the product that makes them to the Adam update that
 *                     uses them up, so one set serves all layers
 *   activations       from a layer's forward pass to its backward pass; then
 *                     their tensors are destroyed: dead bytes are never written
 *   scratch           plain malloc: twelve numbers per token and unit of width,
 *                     and the matrix product's packing buffers
 *
 * Read on top to bottom: arguments, data, memory, model, forward, backward,
 * a gradient check, progress, main. The arithmetic is in gpt_kernels.h.
 */
#define _DEFAULT_SOURCE

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <terrace.h>

#include "gpt_kernels.h"

#define MIB (1024.0 * 1024.0)
#define LICENCES "/usr/share/common-licenses"

__attribute__((format(printf, 2, 3), noreturn)) static void die(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("gpt: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(status);
}

static void check(int rc, const char *what)
{
    if (rc)
        die(1, "%s: %s", what, terrace_last_error());
}

static void *need(void *p)
{
    if (!p)
        die(1, "out of memory");
    return p;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- arguments --------------------------------------------------------- */

typedef struct config {
    const char *data, *host_limit, *json;
    long layers, width, heads, context, batch, steps, seed, threads;
    double rate;
    int hash, check_gradients;
} config;

typedef struct argument {
    const char *name, *value, *help;
    void *to; /* by `value`: N a long, X a double, NULL an int, else a string */
    long min, max;
} argument;

enum { ARGUMENTS = 14 };

static void arguments_list(config *c, argument list[ARGUMENTS])
{
    const argument all[ARGUMENTS] = {
        {"--data", "FILE", "text to learn; default: the licences in " LICENCES, &c->data, 0, 0},
        {"--layers", "N", "transformer blocks", &c->layers, 1, 1000},
        {"--width", "N", "size of the residual stream", &c->width, 8, 65536},
        {"--heads", "N", "attention heads, a divisor of the width", &c->heads, 1, 1024},
        {"--context", "N", "bytes of text in a sequence", &c->context, 2, 65536},
        {"--batch", "N", "sequences in a step", &c->batch, 1, 65536},
        {"--steps", "N", "steps to train", &c->steps, 1, 1000000000},
        {"--rate", "X", "learning rate after warm-up", &c->rate, 0, 0},
        {"--seed", "N", "of weights and of the choice of text", &c->seed, 0, 1000000000},
        {"--host-limit", "SIZE", "memory for tensors, e.g. 256M; default: terrace's", &c->host_limit,
         0, 0},
        {"--threads", "N", "compute threads; default: OpenMP's", &c->threads, 1, 4096},
        {"--json", "FILE", "write the results there", &c->json, 0, 0},
        {"--hash", NULL, "print a hash (64-bit FNV-1a) of all final weights and moments", &c->hash,
         0, 0},
        {"--check-gradients", NULL, "", &c->check_gradients, 0, 0},
    };
    memcpy(list, all, sizeof all);
}

static void arguments_help(const config *c, const argument *list)
{
    puts("Usage: gpt [OPTION...]\nTrains a byte-level GPT with all of its state in terrace tensors.\n");
    for (int i = 0; i < ARGUMENTS; i++) {
        const argument *a = &list[i];
        char left[40], value[40] = "";
        if (!*a->help)
            continue;
        snprintf(left, sizeof left, "%s %s", a->name, a->value ? a->value : "");
        if (a->to == &c->rate)
            snprintf(value, sizeof value, " (%g)", c->rate);
        else if (a->value && *a->value == 'N' && a->to != &c->threads)
            snprintf(value, sizeof value, " (%ld)", *(long *)a->to);
        printf("  %-20s %s%s\n", left, a->help, value);
    }
    printf("  %-20s this text\n\nterrace's own settings are environment variables: see terrace help env.\n",
           "--help");
}

static void argument_set(const argument *a, const char *text)
{
    char *end = NULL;
    errno = 0;
    if (strcmp(a->value, "N") == 0) {
        long n = strtol(text, &end, 10);
        if (!*text || *end || errno || n < a->min || n > a->max)
            die(2, "%s is '%s'; it must be a whole number from %ld to %ld.", a->name, text, a->min,
                a->max);
        *(long *)a->to = n;
    } else if (strcmp(a->value, "X") == 0) {
        double x = strtod(text, &end);
        if (!*text || *end || !(x >= 0.0 && x <= 1.0))
            die(2, "%s is '%s'; it must be a number from 0 to 1.", a->name, text);
        *(double *)a->to = x;
    } else {
        if (!*text || strpbrk(text, ";\"\n"))
            die(2, "%s is '%s'; it must be a plain %s.", a->name, text, a->value);
        *(const char **)a->to = text;
    }
}

static void arguments_parse(config *c, int argc, char **argv)
{
    argument list[ARGUMENTS];
    arguments_list(c, list);
    for (int i = 1; i < argc; i++) {
        const argument *a = NULL;
        for (int j = 0; j < ARGUMENTS && !a; j++)
            if (strcmp(argv[i], list[j].name) == 0)
                a = &list[j];
        if (strcmp(argv[i], "--help") == 0) {
            arguments_help(c, list);
            exit(0);
        }
        if (!a)
            die(2, "there is no option '%s'; gpt --help lists them.", argv[i]);
        if (!a->value)
            *(int *)a->to = 1;
        else if (i + 1 == argc)
            die(2, "%s needs a value.", a->name);
        else
            argument_set(a, argv[++i]);
    }
    if (c->width % c->heads)
        die(2, "--width %ld is not a multiple of --heads %ld.", c->width, c->heads);
}

/* ---- data -------------------------------------------------------------- */

typedef struct corpus {
    unsigned char *bytes;
    size_t size;
} corpus;

/* Appends a regular file; returns -1 if it cannot be read. */
static int corpus_add(corpus *c, const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        fclose(f);
        errno = S_ISDIR(st.st_mode) ? EISDIR : ESPIPE;
        return -1;
    }
    c->bytes = need(realloc(c->bytes, c->size + (size_t)st.st_size + 1));
    c->size += fread(c->bytes + c->size, 1, (size_t)st.st_size, f);
    fclose(f);
    return 0;
}

static int licence_filter(const struct dirent *e)
{
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, LICENCES "/%s", e->d_name);
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* In the order of the bytes of the names, whatever the locale. */
static int licence_order(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void corpus_load(corpus *c, const config *cfg)
{
    if (cfg->data) {
        if (corpus_add(c, cfg->data))
            die(2, "--data: %s cannot be read: %s.", cfg->data, strerror(errno));
    } else {
        struct dirent **names = NULL;
        int n = scandir(LICENCES, &names, licence_filter, licence_order);
        for (int i = 0; i < n; i++) {
            char path[512];
            snprintf(path, sizeof path, LICENCES "/%s", names[i]->d_name);
            corpus_add(c, path);
            free(names[i]);
        }
        free(names);
    }
    if (!c->bytes || c->size < (size_t)cfg->context + 1)
        die(2, "the text has %zu bytes; --context %ld needs more: give one with --data FILE.",
            c->size, cfg->context);
}

/* A well-mixed function of a seed and a position (splitmix64): random numbers
 * that do not depend on who draws them when. */
static inline uint64_t mix(uint64_t seed, uint64_t position)
{
    uint64_t z = seed + (position + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

/* ---- memory: sets of tensors ------------------------------------------- */

/* The tensors a piece of work needs, acquired and released together. */
enum { HOLD = 6 };
typedef struct hold {
    terrace_access list[HOLD];
    size_t n;
} hold;

static void hold_add(hold *h, terrace_tensor *t, terrace_tier tier, unsigned mode)
{
    h->list[h->n++] = (terrace_access){
        .size = sizeof(terrace_access), .tensor = t, .tier = tier, .mode = mode};
}

static void hold_acquire(hold *h)
{
    check(terrace_acquire_all(h->list, h->n, TERRACE_HOST_SYNC), "acquire");
}

static float *hold_at(const hold *h, size_t i) { return h->list[i].address; }

static void hold_release(hold *h)
{
    for (size_t i = 0; i < h->n; i++)
        check(terrace_release(h->list[i].tensor, h->list[i].address, TERRACE_HOST_SYNC), "release");
    h->n = 0;
}

/* ---- model ------------------------------------------------------------- */

enum { BYTES = 256 }; /* the vocabulary */

/* One trained array: a matrix [in x out] applied as y = x W, a gain, a table. */
typedef struct parameter {
    char label[48];
    size_t in, out;
    float deviation; /* of the initial values; 0: they are all 1 */
    terrace_tensor *weight, *first, *second; /* first and second: Adam's moments */
    terrace_tensor *gradient;                /* shared by the layers */
    struct parameter *next;                  /* whose turn is next in the backward pass */
} parameter;

enum { NORM_1, QKV, PROJECT, NORM_2, UP, DOWN, PER_LAYER };

/* What the forward pass keeps of a block. What is cheap to compute again (the
 * norms, the GELU, the attention weights) is not kept. */
enum { IN, HEADS, MIXED, LOGS, MIDDLE, HIDDEN, KEPT };

typedef struct layer {
    parameter p[PER_LAYER];
    terrace_tensor *kept[KEPT];
} layer;

typedef struct model {
    config cfg;
    terrace *m;
    terrace_tier host;
    size_t tokens, width; /* of a step; of the residual stream */
    layer *layers;
    parameter token, position, norm, head;
    terrace_tensor *layer_gradients[PER_LAYER];
    size_t weights, scratch_bytes;
    size_t tensor_bytes, most_bytes; /* in tensors when all are there: expected, found */

    int *inputs, *targets;
    double *losses;
    float *x, *dx;         /* the residual stream and its gradient: tokens x width */
    float *normed, *back;  /* tokens x width */
    float *wide, *dwide;   /* tokens x 4 width */
    float *statistics;     /* tokens x 2 */
    gemm_space space;
    attention attention;

    float rate, unbias;    /* of this step's Adam */
    parameter *probe;      /* the gradient check: copy this one's gradient */
    float *probe_gradient; /* here, and update nothing */
} model;

static terrace_tensor *tensor(model *g, size_t count, int role, const char *label,
                              const char *suffix)
{
    char name[80];
    terrace_tensor *t = NULL;
    snprintf(name, sizeof name, "%s%s", label, suffix);
    terrace_tensor_attr attr = {.size = sizeof attr, .label = name, .role = role};
    check(terrace_tensor_create(g->m, count * sizeof(float), &attr, &t), name);
    return t;
}

static terrace_statistics statistics(const model *g)
{
    terrace_statistics s = {.size = sizeof s};
    check(terrace_stats(g->m, &s), "statistics");
    return s;
}

/* `gradient`: where it goes, or NULL for one of the parameter's own. */
static void parameter_create(model *g, parameter *p, size_t in, size_t out, float deviation,
                             terrace_tensor *gradient)
{
    size_t n = in * out;
    p->in = in;
    p->out = out;
    p->deviation = deviation;
    p->weight = tensor(g, n, TERRACE_ROLE_WEIGHT, p->label, "");
    p->first = tensor(g, n, TERRACE_ROLE_OPTIMIZER, p->label, "/moment_1");
    p->second = tensor(g, n, TERRACE_ROLE_OPTIMIZER, p->label, "/moment_2");
    p->gradient = gradient ? gradient : tensor(g, n, TERRACE_ROLE_GRADIENT, p->label, "/gradient");
    g->weights += n;
}

/* The backward pass is done with what was kept: it costs no write any more. */
static void kept_destroy(model *g, size_t l, int first, int last)
{
    for (int i = first; i <= last; i++) {
        terrace_tensor_destroy(g->layers[l].kept[i]);
        g->layers[l].kept[i] = NULL;
    }
}

static void layer_create(model *g, size_t l)
{
    static const char *const names[PER_LAYER] = {"attn/norm", "attn/w_qkv", "attn/w_out",
                                                 "mlp/norm",  "mlp/w_in",   "mlp/w_out"};
    size_t w = g->width;
    size_t shape[PER_LAYER][2] = {{1, w}, {w, 3 * w}, {w, w}, {1, w}, {w, 4 * w}, {4 * w, w}};
    float out = 0.02f / sqrtf(2.0f * (float)g->cfg.layers); /* into the residual stream */
    float deviation[PER_LAYER] = {0.0f, 0.02f, out, 0.0f, 0.02f, out};
    if (g->cfg.check_gradients) /* larger, so that no gradient is lost in rounding */
        deviation[QKV] = deviation[PROJECT] = deviation[UP] = deviation[DOWN] = 0.2f;
    for (int i = 0; i < PER_LAYER; i++) {
        parameter *p = &g->layers[l].p[i];
        snprintf(p->label, sizeof p->label, "layers/%zu/%s", l, names[i]);
        if (!g->layer_gradients[i])
            g->layer_gradients[i] =
                tensor(g, shape[i][0] * shape[i][1], TERRACE_ROLE_GRADIENT, "gradients/", names[i]);
        parameter_create(g, p, shape[i][0], shape[i][1], deviation[i], g->layer_gradients[i]);
    }
}

/* Creates what the forward pass of layer l keeps from `first` to `last`, and
 * adds it to the list of what it needs, to be written from end to end. */
static void kept_create(model *g, hold *h, size_t l, int first, int last)
{
    static const char *const names[KEPT] = {"attn/in",   "attn/qkv", "attn/mixed",
                                            "attn/logs", "mlp/in",   "mlp/hidden"};
    size_t w = g->width, sizes[KEPT] = {w, 3 * w, w, (size_t)g->cfg.heads, w, 4 * w};
    for (int i = first; i <= last; i++) {
        char label[48];
        kept_destroy(g, l, i, i);
        snprintf(label, sizeof label, "layers/%zu/kept/", l);
        g->layers[l].kept[i] =
            tensor(g, g->tokens * sizes[i], TERRACE_ROLE_ACTIVATION, label, names[i]);
        hold_add(h, g->layers[l].kept[i], g->host, TERRACE_OVERWRITE);
    }
}

/* The order in which the backward pass meets the matrices. */
static void model_link(model *g)
{
    static const int order[] = {DOWN, UP, PROJECT, QKV};
    parameter *last = &g->head;
    for (size_t l = (size_t)g->cfg.layers; l-- > 0;)
        for (size_t i = 0; i < 4; i++) {
            parameter *p = &g->layers[l].p[order[i]];
            last->next = p;
            last = p;
        }
}

/* Room for `count` floats or ints. */
static void *scratch(model *g, size_t count)
{
    size_t bytes = round_up(count * sizeof(float), 64);
    g->scratch_bytes += bytes;
    return need(aligned_alloc(64, bytes));
}

static void model_scratch(model *g)
{
    size_t n = g->tokens, w = g->width, wide = n * (4 * w > BYTES ? 4 * w : BYTES);
    g->inputs = scratch(g, n);
    g->targets = scratch(g, n);
    g->losses = scratch(g, 2 * n);
    g->x = scratch(g, n * w);
    g->dx = scratch(g, n * w);
    g->normed = scratch(g, n * w);
    g->back = scratch(g, n * w);
    g->wide = scratch(g, wide);
    g->dwide = scratch(g, wide);
    g->statistics = scratch(g, 2 * n);
    need(gemm_space_init(&g->space, 1024, 2048, 1));
    need(attention_init(&g->attention));
    g->scratch_bytes += gemm_space_bytes(1024, 2048) + attention_bytes(&g->attention);
}

static void model_create(model *g)
{
    const config *c = &g->cfg;
    g->width = (size_t)c->width;
    g->tokens = (size_t)(c->batch * c->context);
    g->attention = (attention){.batch = (size_t)c->batch, .context = (size_t)c->context,
                               .heads = (size_t)c->heads, .width = g->width,
                               .threads = omp_get_max_threads()};
    g->layers = need(calloc((size_t)c->layers, sizeof *g->layers));
    snprintf(g->token.label, sizeof g->token.label, "embed/tokens");
    snprintf(g->position.label, sizeof g->position.label, "embed/positions");
    snprintf(g->norm.label, sizeof g->norm.label, "head/norm");
    snprintf(g->head.label, sizeof g->head.label, "head/w_out");
    parameter_create(g, &g->token, BYTES, g->width, 0.02f, NULL);
    parameter_create(g, &g->position, (size_t)c->context, g->width, 0.02f, NULL);
    for (size_t l = 0; l < (size_t)c->layers; l++)
        layer_create(g, l);
    parameter_create(g, &g->norm, 1, g->width, 0.0f, NULL);
    parameter_create(g, &g->head, g->width, BYTES, c->check_gradients ? 0.2f : 0.005f, NULL);
    model_link(g);
    model_scratch(g);

    terrace_statistics s = statistics(g);
    size_t kept = (10 * g->width + (size_t)c->heads) * g->tokens * (size_t)c->layers;
    g->tensor_bytes = s.tensor_bytes + kept * sizeof(float);
}

/* Calls f for every parameter, always in the same order. */
static void model_each(model *g, void (*f)(model *, parameter *, void *), void *user)
{
    f(g, &g->token, user);
    f(g, &g->position, user);
    for (size_t l = 0; l < (size_t)g->cfg.layers; l++)
        for (int i = 0; i < PER_LAYER; i++)
            f(g, &g->layers[l].p[i], user);
    f(g, &g->norm, user);
    f(g, &g->head, user);
}

/* Uniform values of the wanted deviation. The moments need nothing: a new
 * tensor reads as zeros. `user` counts the parameters. */
static void parameter_start(model *g, parameter *p, void *user)
{
    uint64_t seed = mix((uint64_t)g->cfg.seed, (*(uint64_t *)user)++);
    float span = p->deviation * 2.0f * sqrtf(3.0f);
    size_t n = p->in * p->out;
    hold h = {.n = 0};
    hold_add(&h, p->weight, g->host, TERRACE_OVERWRITE);
    hold_acquire(&h);
    float *w = hold_at(&h, 0);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        w[i] = p->deviation == 0.0f ? 1.0f
                                    : span * ((float)(mix(seed, i) >> 40) / 16777216.0f - 0.5f);
    hold_release(&h);
}

static void prefetch(const model *g, terrace_tensor *t)
{
    check(terrace_prefetch(t, g->host), "prefetch");
}

/* ---- forward ----------------------------------------------------------- */

/* Picks the step's sequences and their targets, one byte further. */
static void batch_pick(model *g, const corpus *text, long step)
{
    size_t context = (size_t)g->cfg.context;
    for (size_t b = 0; b < (size_t)g->cfg.batch; b++) {
        uint64_t draw = mix((uint64_t)g->cfg.seed + 1000003u * (uint64_t)step, b);
        const unsigned char *from = text->bytes + draw % (text->size - context);
        for (size_t i = 0; i < context; i++) {
            g->inputs[b * context + i] = from[i];
            g->targets[b * context + i] = from[i + 1];
        }
    }
}

static void embed_forward(model *g)
{
    size_t w = g->width, context = (size_t)g->cfg.context;
    hold h = {.n = 0};
    hold_add(&h, g->token.weight, g->host, TERRACE_READ);
    hold_add(&h, g->position.weight, g->host, TERRACE_READ);
    hold_acquire(&h);
    const float *token = hold_at(&h, 0), *position = hold_at(&h, 1);
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < g->tokens; i++)
        for (size_t j = 0; j < w; j++)
            g->x[i * w + j] = token[(size_t)g->inputs[i] * w + j] + position[i % context * w + j];
    hold_release(&h);
}

/* x += mix(norm(x)) */
static void attention_block_forward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    size_t n = g->tokens, w = g->width;
    hold in = {.n = 0}, out = {.n = 0};
    hold_add(&in, y->p[NORM_1].weight, g->host, TERRACE_READ);
    hold_add(&in, y->p[QKV].weight, g->host, TERRACE_READ);
    hold_add(&in, y->p[PROJECT].weight, g->host, TERRACE_READ);
    hold_acquire(&in);
    kept_create(g, &out, l, IN, LOGS);
    hold_acquire(&out);
    prefetch(g, y->p[UP].weight);
    prefetch(g, y->p[DOWN].weight);

    memcpy(hold_at(&out, IN), g->x, n * w * sizeof(float));
    norm_forward(g->normed, g->x, hold_at(&in, 0), n, w);
    gemm(&g->space, n, 3 * w, w, plain(g->normed, w), plain(hold_at(&in, 1), 3 * w),
         hold_at(&out, HEADS), 3 * w, 0);
    attention_forward(&g->attention, hold_at(&out, MIXED), hold_at(&out, LOGS),
                      hold_at(&out, HEADS));
    gemm(&g->space, n, w, w, plain(hold_at(&out, MIXED), w), plain(hold_at(&in, 2), w), g->x, w, 1);
    hold_release(&in);
    hold_release(&out);
}

/* x += down(gelu(up(norm(x)))) */
static void mlp_block_forward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    size_t n = g->tokens, w = g->width;
    hold in = {.n = 0}, out = {.n = 0};
    hold_add(&in, y->p[NORM_2].weight, g->host, TERRACE_READ);
    hold_add(&in, y->p[UP].weight, g->host, TERRACE_READ);
    hold_add(&in, y->p[DOWN].weight, g->host, TERRACE_READ);
    hold_acquire(&in);
    kept_create(g, &out, l, MIDDLE, HIDDEN);
    hold_acquire(&out);
    if (l + 1 < (size_t)g->cfg.layers) {
        prefetch(g, y[1].p[QKV].weight);
        prefetch(g, y[1].p[PROJECT].weight);
    }

    memcpy(hold_at(&out, 0), g->x, n * w * sizeof(float));
    norm_forward(g->normed, g->x, hold_at(&in, 0), n, w);
    gemm(&g->space, n, 4 * w, w, plain(g->normed, w), plain(hold_at(&in, 1), 4 * w),
         hold_at(&out, 1), 4 * w, 0);
    gelu_forward(g->wide, hold_at(&out, 1), n * 4 * w);
    gemm(&g->space, n, w, 4 * w, plain(g->wide, 4 * w), plain(hold_at(&in, 2), w), g->x, w, 1);
    hold_release(&in);
    hold_release(&out);
}

/* The mean loss; leaves the logits' gradient in `wide`, norm(x) in `normed`. */
static double head_forward(model *g)
{
    hold h = {.n = 0};
    hold_add(&h, g->norm.weight, g->host, TERRACE_READ);
    hold_add(&h, g->head.weight, g->host, TERRACE_READ);
    hold_acquire(&h);
    norm_forward(g->normed, g->x, hold_at(&h, 0), g->tokens, g->width);
    gemm(&g->space, g->tokens, BYTES, g->width, plain(g->normed, g->width),
         plain(hold_at(&h, 1), BYTES), g->wide, BYTES, 0);
    hold_release(&h);
    cross_entropy(g->wide, g->targets, g->losses, g->tokens, BYTES);
    double sum = 0.0;
    for (size_t i = 0; i < g->tokens; i++)
        sum += g->losses[i];
    return sum / (double)g->tokens;
}

static double forward(model *g)
{
    embed_forward(g);
    for (size_t l = 0; l < (size_t)g->cfg.layers; l++) {
        attention_block_forward(g, l);
        mlp_block_forward(g, l);
    }
    g->most_bytes = statistics(g).tensor_bytes;
    return head_forward(g);
}

/* ---- backward and optimiser -------------------------------------------- */

/* Adam on one parameter, whose weight and gradient are held. */
static void update(model *g, parameter *p, float *weight, const float *gradient)
{
    size_t n = p->in * p->out;
    if (g->probe) {
        if (g->probe == p)
            memcpy(g->probe_gradient, gradient, n * sizeof(float));
        return;
    }
    hold h = {.n = 0};
    hold_add(&h, p->first, g->host, TERRACE_WRITE);
    hold_add(&h, p->second, g->host, TERRACE_WRITE);
    hold_acquire(&h);
    adam(weight, hold_at(&h, 0), hold_at(&h, 1), gradient, n, g->rate, g->unbias);
    hold_release(&h);
}

/* Backward of y = x W: dx from dy, W's gradient, and W's update; meanwhile the
 * moments and the next matrix come in. */
static void linear_backward(model *g, parameter *p, const float *x, const float *dy, float *dx)
{
    size_t n = g->tokens;
    hold h = {.n = 0};
    hold_add(&h, p->weight, g->host, TERRACE_WRITE);
    hold_add(&h, p->gradient, g->host, TERRACE_OVERWRITE);
    hold_acquire(&h);
    prefetch(g, p->first);
    prefetch(g, p->second);
    if (p->next)
        prefetch(g, p->next->weight);
    gemm(&g->space, n, p->in, p->out, plain(dy, p->out), transposed(hold_at(&h, 0), p->out), dx,
         p->in, 0);
    gemm(&g->space, p->in, p->out, n, transposed(x, p->in), plain(dy, p->out), hold_at(&h, 1),
         p->out, 0);
    update(g, p, hold_at(&h, 0), hold_at(&h, 1));
    hold_release(&h);
}

/* Backward of a norm of x: adds to dx, makes and uses the gain's gradient. */
static void gain_backward(model *g, parameter *p, const float *x, const float *dy, float *dx)
{
    hold h = {.n = 0};
    hold_add(&h, p->weight, g->host, TERRACE_WRITE);
    hold_add(&h, p->gradient, g->host, TERRACE_OVERWRITE);
    hold_acquire(&h);
    norm_backward(dx, hold_at(&h, 1), dy, x, hold_at(&h, 0), g->statistics, g->tokens, g->width);
    update(g, p, hold_at(&h, 0), hold_at(&h, 1));
    hold_release(&h);
}

/* normed = norm(x), as in the forward pass. */
static void norm_again(model *g, const parameter *p, const float *x)
{
    hold h = {.n = 0};
    hold_add(&h, p->weight, g->host, TERRACE_READ);
    hold_acquire(&h);
    norm_forward(g->normed, x, hold_at(&h, 0), g->tokens, g->width);
    hold_release(&h);
}

static void head_backward(model *g)
{
    linear_backward(g, &g->head, g->normed, g->wide, g->back);
    memset(g->dx, 0, g->tokens * g->width * sizeof(float));
    gain_backward(g, &g->norm, g->x, g->back, g->dx);
}

static void mlp_block_backward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    hold h = {.n = 0};
    hold_add(&h, y->kept[MIDDLE], g->host, TERRACE_READ);
    hold_add(&h, y->kept[HIDDEN], g->host, TERRACE_READ);
    hold_acquire(&h);
    const float *middle = hold_at(&h, 0), *hidden = hold_at(&h, 1);
    for (int i = IN; i <= LOGS; i++)
        prefetch(g, y->kept[i]);

    gelu_forward(g->wide, hidden, g->tokens * 4 * g->width);
    linear_backward(g, &y->p[DOWN], g->wide, g->dx, g->dwide);
    gelu_backward(g->dwide, hidden, g->tokens * 4 * g->width);
    norm_again(g, &y->p[NORM_2], middle);
    linear_backward(g, &y->p[UP], g->normed, g->dwide, g->back);
    gain_backward(g, &y->p[NORM_2], middle, g->back, g->dx);
    hold_release(&h);
    kept_destroy(g, l, MIDDLE, HIDDEN);
}

static void attention_block_backward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    hold h = {.n = 0};
    for (int i = IN; i <= LOGS; i++)
        hold_add(&h, y->kept[i], g->host, TERRACE_READ);
    hold_acquire(&h);
    if (l > 0) {
        prefetch(g, y[-1].kept[MIDDLE]);
        prefetch(g, y[-1].kept[HIDDEN]);
    }

    linear_backward(g, &y->p[PROJECT], hold_at(&h, MIXED), g->dx, g->back);
    attention_backward(&g->attention, g->dwide, g->back, hold_at(&h, HEADS), hold_at(&h, MIXED),
                       hold_at(&h, LOGS));
    norm_again(g, &y->p[NORM_1], hold_at(&h, IN));
    linear_backward(g, &y->p[QKV], g->normed, g->dwide, g->back);
    gain_backward(g, &y->p[NORM_1], hold_at(&h, IN), g->back, g->dx);
    hold_release(&h);
    kept_destroy(g, l, IN, LOGS);
}

/* The gradient of an embedding table: row `which(i)` collects dx's row i. A
 * thread has some columns to itself, so the order of the sums is fixed. */
static void table_backward(model *g, parameter *p, int by_token)
{
    size_t w = g->width;
    hold h = {.n = 0};
    hold_add(&h, p->weight, g->host, TERRACE_WRITE);
    hold_add(&h, p->gradient, g->host, TERRACE_OVERWRITE);
    hold_acquire(&h);
    float *gradient = hold_at(&h, 1);
    memset(gradient, 0, p->in * w * sizeof(float));
#pragma omp parallel for schedule(static)
    for (size_t j0 = 0; j0 < w; j0 += 64)
        for (size_t i = 0; i < g->tokens; i++) {
            size_t row = by_token ? (size_t)g->inputs[i] : i % (size_t)g->cfg.context;
            for (size_t j = j0; j < smaller(w, j0 + 64); j++)
                gradient[row * w + j] += g->dx[i * w + j];
        }
    update(g, p, hold_at(&h, 0), gradient);
    hold_release(&h);
}

static void backward(model *g)
{
    head_backward(g);
    for (size_t l = (size_t)g->cfg.layers; l-- > 0;) {
        mlp_block_backward(g, l);
        attention_block_backward(g, l);
    }
    table_backward(g, &g->position, 0);
    table_backward(g, &g->token, 1);
}

/* One step of training: the loss before it. Steps count from 0. */
static double train_step(model *g, const corpus *text, long step)
{
    const long warm_up = 4;
    double t = (double)step + 1.0, ramp = t < warm_up ? t / warm_up : 1.0;
    g->rate = (float)(g->cfg.rate * ramp / (1.0 - pow(0.9, t)));
    g->unbias = (float)(1.0 / (1.0 - pow(0.95, t)));
    batch_pick(g, text, step);
    double loss = forward(g);
    backward(g);
    check(terrace_step(g->m), "step");
    return loss;
}

/* ---- gradient check ---------------------------------------------------- */

static void weight_shift(model *g, parameter *p, size_t i, float by)
{
    hold h = {.n = 0};
    hold_add(&h, p->weight, g->host, TERRACE_WRITE);
    hold_acquire(&h);
    hold_at(&h, 0)[i] += by;
    hold_release(&h);
}

/* Compares the four largest gradients of a parameter with difference
 * quotients; `user` is the worst relative error so far. */
static void gradient_check(model *g, parameter *p, void *user)
{
    const float by = 1.0f / 512;
    size_t n = p->in * p->out;
    double *worst = user;
    g->probe = p;
    g->probe_gradient = need(malloc(n * sizeof(float)));
    forward(g);
    backward(g);
    for (int trial = 0; trial < 4; trial++) {
        size_t at = 0;
        for (size_t i = 1; i < n; i++)
            if (fabsf(g->probe_gradient[i]) > fabsf(g->probe_gradient[at]))
                at = i;
        double expected = g->probe_gradient[at];
        weight_shift(g, p, at, by);
        double up = forward(g);
        weight_shift(g, p, at, -2 * by);
        double down = forward(g);
        weight_shift(g, p, at, by);
        double found = (up - down) / (2 * (double)by);
        double error = fabs(found - expected) / fmax(fabs(expected), 1e-3);
        printf("%-24s [%6zu]  backward %+.6f  difference quotient %+.6f  error %.1e\n", p->label,
               at, expected, found, error);
        if (!(error <= *worst))
            *worst = error;
        g->probe_gradient[at] = 0.0f;
    }
    free(g->probe_gradient);
    g->probe = NULL;
}

static int check_gradients(model *g, const corpus *text)
{
    double worst = 0.0;
    batch_pick(g, text, 0);
    model_each(g, gradient_check, &worst);
    printf("gradients %s: the largest relative error is %.1e\n", worst < 0.01 ? "agree" : "differ",
           worst);
    return worst < 0.01 ? 0 : 1;
}

/* ---- progress and results ---------------------------------------------- */

/* What one step did; and a sum over tiers of one class. */
typedef struct record {
    double loss, seconds, stall;
    uint64_t read, written;
} record;

typedef struct tier_sum {
    uint64_t limit, used, peak;
    const char *name, *engine, *engine_reason, *location, *limit_reason;
} tier_sum;

static tier_sum tier_class(const model *g, const char *tier_class)
{
    tier_sum sum = {.name = "none", .engine = "none", .engine_reason = "", .location = "",
                    .limit_reason = ""};
    terrace_tier_statistics s = {.size = sizeof s};
    for (terrace_tier t = 0; terrace_tier_stats(g->m, t, &s) == 0; t++) {
        if (strcmp(s.tier_class, tier_class) != 0)
            continue;
        sum.limit += s.limit;
        sum.used += s.used;
        sum.peak += s.peak;
        sum.name = s.name;
        sum.engine = s.engine ? s.engine : "none";
        sum.engine_reason = s.engine_reason ? s.engine_reason : "";
        sum.location = s.location ? s.location : "";
        sum.limit_reason = s.limit_reason ? s.limit_reason : "";
    }
    return sum;
}

static void progress(const model *g, long step, const record *r)
{
    int tty = isatty(STDOUT_FILENO);
    printf("%sstep %3ld/%ld  loss %.4f  %5.0f tokens/s  host %5.0f MiB  read %5.0f MiB  "
           "written %5.0f MiB  stalled %.2f s%s",
           tty ? "\r" : "", step + 1, g->cfg.steps, r->loss, (double)g->tokens / r->seconds,
           (double)tier_class(g, "host").used / MIB, (double)r->read / MIB,
           (double)r->written / MIB, r->stall, tty && step + 1 < g->cfg.steps ? "\033[K" : "\n");
    fflush(stdout);
}

static void greet(const model *g)
{
    tier_sum host = tier_class(g, "host"), disk = tier_class(g, "disk");
    printf("model: %.1f M weights, %ld layers of width %ld; %zu tokens a step\n",
           (double)g->weights / 1e6, g->cfg.layers, g->cfg.width, g->tokens);
    printf("working set: %.0f MiB in tensors, and %.0f MiB of scratch outside of them\n",
           (double)g->tensor_bytes / MIB, (double)g->scratch_bytes / MIB);
    printf("budget: %.0f MiB of host memory (%s); below it: %s %s, %s\n", (double)host.limit / MIB,
           host.limit_reason, disk.name, disk.location, disk.engine);
    fflush(stdout);
}

static uint64_t fnv1a(uint64_t hash, const void *data, size_t bytes)
{
    for (size_t i = 0; i < bytes; i++)
        hash = (hash ^ ((const unsigned char *)data)[i]) * 0x100000001b3u;
    return hash;
}

/* Adds a parameter and its moments to the hash, one tensor at a time. */
static void parameter_hash(model *g, parameter *p, void *user)
{
    terrace_tensor *parts[3] = {p->weight, p->first, p->second};
    for (int i = 0; i < 3; i++) {
        hold h = {.n = 0};
        hold_add(&h, parts[i], g->host, TERRACE_READ);
        hold_acquire(&h);
        if (i < 2)
            prefetch(g, parts[i + 1]);
        *(uint64_t *)user = fnv1a(*(uint64_t *)user, hold_at(&h, 0), p->in * p->out * sizeof(float));
        hold_release(&h);
    }
}

static void json_text(FILE *f, const char *key, const char *value)
{
    fprintf(f, "  \"%s\": \"", key);
    for (; *value; value++)
        if (*value == '"' || *value == '\\')
            fprintf(f, "\\%c", *value);
        else if ((unsigned char)*value < ' ')
            fprintf(f, "\\u%04x", *value);
        else
            fputc(*value, f);
    fputs("\",\n", f);
}

static void json_number(FILE *f, const char *key, uint64_t value)
{
    fprintf(f, "  \"%s\": %" PRIu64 ",\n", key, value);
}

static void json_steps(FILE *f, const record *r, long steps)
{
    static const char *const keys[] = {"losses", "step_seconds", "step_stall_seconds",
                                       "step_read_bytes", "step_written_bytes"};
    for (int k = 0; k < 5; k++) {
        fprintf(f, "  \"%s\": [", keys[k]);
        for (long i = 0; i < steps; i++) {
            double real[] = {r[i].loss, r[i].seconds, r[i].stall};
            uint64_t whole[] = {r[i].read, r[i].written};
            if (k < 3)
                fprintf(f, "%s%.17g", i ? ", " : "", real[k]);
            else
                fprintf(f, "%s%" PRIu64, i ? ", " : "", whole[k - 3]);
        }
        fputs("],\n", f);
    }
}

/* One key a line, so that sed can read it. */
static void json_write(const model *g, const record *r, uint64_t hash)
{
    FILE *f = fopen(g->cfg.json, "w");
    struct rusage usage;
    if (!f)
        die(1, "--json: %s cannot be written: %s.", g->cfg.json, strerror(errno));
    tier_sum host = tier_class(g, "host"), disk = tier_class(g, "disk");
    terrace_statistics s = statistics(g);
    getrusage(RUSAGE_SELF, &usage);
    fputs("{\n", f);
    json_text(f, "terrace", terrace_version());
    json_number(f, "weights", g->weights);
    json_number(f, "tokens_per_step", g->tokens);
    json_number(f, "threads", (uint64_t)g->attention.threads);
    json_number(f, "working_set_bytes", g->most_bytes);
    json_number(f, "scratch_bytes", g->scratch_bytes);
    json_number(f, "peak_rss_bytes", (uint64_t)usage.ru_maxrss * 1024);
    json_number(f, "host_limit_bytes", host.limit);
    json_text(f, "host_limit_reason", host.limit_reason);
    json_number(f, "host_peak_bytes", host.peak);
    json_text(f, "disk", disk.location);
    json_text(f, "engine", disk.engine);
    json_text(f, "engine_reason", disk.engine_reason);
    json_number(f, "acquires", s.acquires);
    json_number(f, "hits", s.hits);
    json_number(f, "stall_ns", s.stall_ns);
    json_number(f, "prefetches", s.prefetches);
    json_number(f, "prefetch_hits", s.prefetch_hits);
    json_number(f, "evictions", s.evictions);
    json_number(f, "clean_evictions", s.clean_evictions);
    json_number(f, "writeback_bytes", s.writeback_bytes);
    json_number(f, "fill_bytes", s.fill_bytes);
    json_number(f, "wasted_bytes", s.wasted_bytes);
    json_number(f, "cpu_copy_bytes", s.cpu_copy_bytes);
    json_number(f, "io_errors", s.io_errors);
    json_steps(f, r, g->cfg.steps);
    fprintf(f, "  \"hash\": \"%016" PRIx64 "\"\n}\n", hash);
    if (ferror(f) | fclose(f))
        die(1, "--json: %s cannot be written: %s.", g->cfg.json, strerror(errno));
}

/* ---- main -------------------------------------------------------------- */

static void open_terrace(model *g)
{
    char conf[128] = "";
    if (g->cfg.host_limit &&
        (size_t)snprintf(conf, sizeof conf, "limit_host=%s", g->cfg.host_limit) >= sizeof conf)
        die(2, "--host-limit is '%s'; it must be a size such as 256M.", g->cfg.host_limit);
    int rc = terrace_open(&g->m, conf);
    if (rc)
        die(rc == -TERRACE_ECONFIG ? 2 : 1, "%s", terrace_last_error());
    check(terrace_tier_find(g->m, "host", &g->host), "host memory");
}

static void train(model *g, const corpus *text, record *records)
{
    for (long step = 0; step < g->cfg.steps; step++) {
        terrace_statistics before = statistics(g);
        double start = seconds();
        record *r = &records[step];
        r->loss = train_step(g, text, step);
        r->seconds = seconds() - start;
        terrace_statistics after = statistics(g);
        r->read = after.fill_bytes - before.fill_bytes;
        r->written = after.writeback_bytes - before.writeback_bytes;
        r->stall = (double)(after.stall_ns - before.stall_ns) * 1e-9;
        progress(g, step, r);
    }
}

static void model_free(model *g)
{
    void *plain_memory[] = {g->inputs, g->targets, g->losses, g->x,          g->dx,
                            g->normed, g->back,    g->wide,   g->statistics, g->dwide,
                            g->space.a, g->attention.blocks,  g->layers};
    terrace_close(g->m); /* and with it all tensors */
    for (int i = 0; i < g->attention.threads; i++)
        free(g->attention.space[i].a);
    free(g->attention.space);
    for (size_t i = 0; i < sizeof plain_memory / sizeof *plain_memory; i++)
        free(plain_memory[i]);
}

int main(int argc, char **argv)
{
    model g = {.cfg = {.layers = 8, .width = 896, .heads = 14, .context = 256, .batch = 3,
                       .steps = 8, .seed = 1, .threads = omp_get_max_threads(), .rate = 5e-4}};
    corpus text = {NULL, 0};
    uint64_t count = 0, hash = 0xcbf29ce484222325u;
    int status = 0;
    arguments_parse(&g.cfg, argc, argv);
    if (g.cfg.check_gradients) {
        g.cfg.layers = 2;
        g.cfg.width = 32;
        g.cfg.heads = 2;
        g.cfg.context = 70;
        g.cfg.batch = 2;
    }
    omp_set_num_threads((int)g.cfg.threads);
    corpus_load(&text, &g.cfg);
    open_terrace(&g);
    model_create(&g);
    model_each(&g, parameter_start, &count);
    greet(&g);
    if (g.cfg.check_gradients) {
        status = check_gradients(&g, &text);
    } else {
        record *records = need(calloc((size_t)g.cfg.steps, sizeof *records));
        train(&g, &text, records);
        if (g.cfg.hash || g.cfg.json)
            model_each(&g, parameter_hash, &hash);
        if (g.cfg.hash)
            printf("hash of all weights and moments: %016" PRIx64 "\n", hash);
        if (g.cfg.json)
            json_write(&g, records, hash);
        free(records);
    }
    model_free(&g);
    free(text.bytes);
    return status;
}
