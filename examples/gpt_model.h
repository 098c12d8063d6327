/* gpt_model.h - the model of gpt.c: its tensors, its forward and backward pass.
 *
 * A function names the tensors it needs and how, acquires them as one set,
 * computes (gpt_compute.h), and releases them. On a device nothing here waits
 * for the computing but what asks for numbers: work goes into a stream in this
 * order, and terrace orders its copies with that.
 */
#ifndef GPT_MODEL_H
#define GPT_MODEL_H

#include "gpt_compute.h"
#include "gpt_input.h"

/* ---- memory: sets of tensors ------------------------------------------- */

/* Where tensors are used: a tier, and the stream of what uses them there. */
typedef struct place {
    terrace_tier tier;
    void *stream;
} place;

/* The tensors a piece of work needs, acquired and released together. */
enum { HOLD = 6 };
typedef struct hold {
    place at;
    terrace_access list[HOLD];
    size_t n;
} hold;

static FILE *trace; /* where accesses are noted, as bench/bound.py reads them; or NULL */

static void hold_add(hold *h, terrace_tensor *t, unsigned mode)
{
    h->list[h->n++] = (terrace_access){
        .size = sizeof(terrace_access), .tensor = t, .tier = h->at.tier, .mode = mode};
}

static void hold_acquire(hold *h)
{
    check(terrace_acquire_all(h->list, h->n, h->at.stream), "acquire");
    for (size_t i = 0; i < h->n && trace; i++)
        fprintf(trace, "use %p %c\n", (void *)h->list[i].tensor,
                h->list[i].mode & TERRACE_OVERWRITE ? 'o' : h->list[i].mode & TERRACE_WRITE ? 'w' : 'r');
}

static float *hold_at(const hold *h, size_t i) { return h->list[i].address; }

static void hold_release(hold *h)
{
    for (size_t i = 0; i < h->n; i++)
        check(terrace_release(h->list[i].tensor, h->list[i].address, h->at.stream), "release");
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
    place here, host; /* where it is computed; where the program itself looks at tensors */
    place there;      /* where the moments are used; the same as here, unless APART */
    size_t tokens, width; /* of a step; of the residual stream */
    layer *layers;
    parameter token, position, norm, head;
    terrace_tensor *layer_gradients[PER_LAYER];
    size_t weights, scratch_bytes;
    size_t tensor_bytes, most_bytes; /* in tensors when all are there: expected, found */

    int *picked;           /* the step's inputs, then targets, and each token's loss, where the */
    loss_value *lost;      /* program can use them; the rest is where it is computed */
    int *inputs, *targets;
    loss_value *losses;
    float *x, *dx;         /* the residual stream and its gradient: tokens x width */
    float *normed, *back;  /* tokens x width */
    float *wide, *dwide;   /* tokens x 4 width */
    float *statistics;     /* tokens x 2 */
    compute c;

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
    if (trace)
        fprintf(trace, "new %p %zu\n", (void *)t, round_up(count * sizeof(float), 4096));
    return t;
}

static void tensor_destroy(terrace_tensor *t)
{
    if (trace && t)
        fprintf(trace, "free %p\n", (void *)t);
    terrace_tensor_destroy(t);
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
        tensor_destroy(g->layers[l].kept[i]);
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
        hold_add(h, g->layers[l].kept[i], TERRACE_OVERWRITE);
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
    return need(compute_memory(bytes));
}

static void model_scratch(model *g)
{
    size_t n = g->tokens, w = g->width, wide = n * (4 * w > BYTES ? 4 * w : BYTES);
    g->picked = need(calloc(2 * n, sizeof *g->picked));
    g->lost = need(calloc(n, sizeof *g->lost));
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
    g->scratch_bytes += compute_bytes(&g->c);
}

/* What is needed besides tensors, taken before terrace looks how much memory there is. */
static void model_open(model *g)
{
    const config *c = &g->cfg;
    g->width = (size_t)c->width;
    g->tokens = (size_t)(c->batch * c->context);
    g->c = (compute){.batch = (size_t)c->batch, .context = (size_t)c->context,
                     .heads = (size_t)c->heads, .width = g->width,
                     .threads = omp_get_max_threads(), .own_products = c->own_products};
#ifdef GPT_MIXED
    g->c.manager = g->m;
#endif
    const char *why = compute_open(&g->c);
    if (why)
        die(NO_COMPUTE, "%s.", why);
    model_scratch(g);
}

static void model_create(model *g)
{
    const config *c = &g->cfg;
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
    hold h = {.at = g->host};
    hold_add(&h, p->weight, TERRACE_OVERWRITE);
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
    check(terrace_prefetch(t, g->here.tier), "prefetch");
}

static void prefetch_moments(const model *g, const parameter *p)
{
    check(terrace_prefetch(p->first, g->there.tier), "prefetch");
    check(terrace_prefetch(p->second, g->there.tier), "prefetch");
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
            g->picked[b * context + i] = from[i];
            g->picked[g->tokens + b * context + i] = from[i + 1];
        }
    }
    put(g->inputs, g->picked, g->tokens * sizeof(int));
    put(g->targets, g->picked + g->tokens, g->tokens * sizeof(int));
}

static void embed_forward(model *g)
{
    hold h = {.at = g->here};
    hold_add(&h, g->token.weight, TERRACE_READ);
    hold_add(&h, g->position.weight, TERRACE_READ);
    hold_acquire(&h);
    embed(g->x, g->inputs, hold_at(&h, 0), hold_at(&h, 1), g->tokens, g->width,
          (size_t)g->cfg.context);
    hold_release(&h);
}

/* x += mix(norm(x)) */
static void attention_block_forward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    size_t n = g->tokens, w = g->width;
    hold in = {.at = g->here}, out = {.at = g->here};
    hold_add(&in, y->p[NORM_1].weight, TERRACE_READ);
    hold_add(&in, y->p[QKV].weight, TERRACE_READ);
    hold_add(&in, y->p[PROJECT].weight, TERRACE_READ);
    hold_acquire(&in);
    kept_create(g, &out, l, IN, LOGS);
    hold_acquire(&out);
    prefetch(g, y->p[UP].weight);
    prefetch(g, y->p[DOWN].weight);

    copy(hold_at(&out, IN), g->x, n * w);
    norm_forward(g->normed, g->x, hold_at(&in, 0), n, w);
    product(&g->c, n, 3 * w, w, plain(g->normed, w), plain(hold_at(&in, 1), 3 * w),
         hold_at(&out, HEADS), 3 * w, 0);
    attend(&g->c, hold_at(&out, MIXED), hold_at(&out, LOGS),
                      hold_at(&out, HEADS));
    product(&g->c, n, w, w, plain(hold_at(&out, MIXED), w), plain(hold_at(&in, 2), w), g->x, w, 1);
    hold_release(&in);
    hold_release(&out);
}

/* x += down(gelu(up(norm(x)))) */
static void mlp_block_forward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    size_t n = g->tokens, w = g->width;
    hold in = {.at = g->here}, out = {.at = g->here};
    hold_add(&in, y->p[NORM_2].weight, TERRACE_READ);
    hold_add(&in, y->p[UP].weight, TERRACE_READ);
    hold_add(&in, y->p[DOWN].weight, TERRACE_READ);
    hold_acquire(&in);
    kept_create(g, &out, l, MIDDLE, HIDDEN);
    hold_acquire(&out);
    if (l + 1 < (size_t)g->cfg.layers) {
        prefetch(g, y[1].p[QKV].weight);
        prefetch(g, y[1].p[PROJECT].weight);
    }

    copy(hold_at(&out, 0), g->x, n * w);
    norm_forward(g->normed, g->x, hold_at(&in, 0), n, w);
    product(&g->c, n, 4 * w, w, plain(g->normed, w), plain(hold_at(&in, 1), 4 * w),
         hold_at(&out, 1), 4 * w, 0);
    gelu_forward(g->wide, hold_at(&out, 1), n * 4 * w);
    product(&g->c, n, w, 4 * w, plain(g->wide, 4 * w), plain(hold_at(&in, 2), w), g->x, w, 1);
    hold_release(&in);
    hold_release(&out);
}

/* Leaves the losses, the logits' gradient in `wide`, norm(x) in `normed`. */
static void head_forward(model *g)
{
    hold h = {.at = g->here};
    hold_add(&h, g->norm.weight, TERRACE_READ);
    hold_add(&h, g->head.weight, TERRACE_READ);
    hold_acquire(&h);
    norm_forward(g->normed, g->x, hold_at(&h, 0), g->tokens, g->width);
    product(&g->c, g->tokens, BYTES, g->width, plain(g->normed, g->width),
         plain(hold_at(&h, 1), BYTES), g->wide, BYTES, 0);
    hold_release(&h);
    cross_entropy(g->wide, g->targets, g->losses, g->tokens, BYTES);
}

/* Waits until all is computed. */
static double mean_loss(model *g)
{
    double sum = 0.0;
    get(g->lost, g->losses, g->tokens * sizeof *g->lost);
    for (size_t i = 0; i < g->tokens; i++)
        sum += g->lost[i];
    return sum / (double)g->tokens;
}

static void forward(model *g)
{
    embed_forward(g);
    for (size_t l = 0; l < (size_t)g->cfg.layers; l++) {
        attention_block_forward(g, l);
        mlp_block_forward(g, l);
    }
    g->most_bytes = statistics(g).tensor_bytes;
    head_forward(g);
}

/* ---- backward and optimiser -------------------------------------------- */

#ifdef GPT_MIXED
/* Adam on one parameter: the gradient goes to the moments, becomes the weight's change
 * there, and comes back. */
static void learn(model *g, parameter *p, hold *with)
{
    size_t n = p->in * p->out;
    hold there = {.at = g->there}, here = {.at = g->here};
    hold_release(with);
    hold_add(&there, p->first, TERRACE_WRITE);
    hold_add(&there, p->second, TERRACE_WRITE);
    hold_add(&there, p->gradient, TERRACE_WRITE);
    hold_acquire(&there);
    adam_moments(&g->c, hold_at(&there, 0), hold_at(&there, 1), hold_at(&there, 2), n, g->rate, g->unbias);
    hold_release(&there);
    hold_add(&here, p->weight, TERRACE_WRITE);
    hold_add(&here, p->gradient, TERRACE_READ);
    hold_acquire(&here);
    subtract(hold_at(&here, 0), hold_at(&here, 1), n);
    hold_release(&here);
}
#else
/* Adam on one parameter, where all of it is computed. */
static void learn(model *g, parameter *p, hold *with)
{
    hold h = {.at = g->there};
    hold_add(&h, p->first, TERRACE_WRITE);
    hold_add(&h, p->second, TERRACE_WRITE);
    hold_acquire(&h);
    adam(hold_at(with, 0), hold_at(&h, 0), hold_at(&h, 1), hold_at(with, 1), p->in * p->out, g->rate, g->unbias);
    hold_release(&h);
    hold_release(with);
}
#endif

/* What follows a parameter's gradient, which is held after its weight, until then. */
static void update(model *g, parameter *p, hold *with)
{
    if (!g->probe) {
        learn(g, p, with);
        return;
    }
    if (g->probe == p)
        get(g->probe_gradient, hold_at(with, 1), p->in * p->out * sizeof(float));
    hold_release(with);
}

/* Backward of y = x W: dx from dy, W's gradient, and W's update; meanwhile the
 * moments and the next matrix come in. */
static void linear_backward(model *g, parameter *p, const float *x, const float *dy, float *dx)
{
    size_t n = g->tokens;
    hold h = {.at = g->here};
    hold_add(&h, p->weight, TERRACE_WRITE);
    hold_add(&h, p->gradient, TERRACE_OVERWRITE);
    hold_acquire(&h);
    prefetch_moments(g, p);
    if (p->next)
        prefetch(g, p->next->weight);
    product(&g->c, n, p->in, p->out, plain(dy, p->out), transposed(hold_at(&h, 0), p->out), dx,
         p->in, 0);
    product(&g->c, p->in, p->out, n, transposed(x, p->in), plain(dy, p->out), hold_at(&h, 1),
         p->out, 0);
    update(g, p, &h);
}

/* Backward of a norm of x: adds to dx, makes and uses the gain's gradient. */
static void gain_backward(model *g, parameter *p, const float *x, const float *dy, float *dx)
{
    hold h = {.at = g->here};
    hold_add(&h, p->weight, TERRACE_WRITE);
    hold_add(&h, p->gradient, TERRACE_OVERWRITE);
    hold_acquire(&h);
    norm_backward(dx, hold_at(&h, 1), dy, x, hold_at(&h, 0), g->statistics, g->tokens, g->width);
    update(g, p, &h);
}

/* normed = norm(x), as in the forward pass. */
static void norm_again(model *g, const parameter *p, const float *x)
{
    hold h = {.at = g->here};
    hold_add(&h, p->weight, TERRACE_READ);
    hold_acquire(&h);
    norm_forward(g->normed, x, hold_at(&h, 0), g->tokens, g->width);
    hold_release(&h);
}

static void head_backward(model *g)
{
    linear_backward(g, &g->head, g->normed, g->wide, g->back);
    zero(g->dx, g->tokens * g->width);
    gain_backward(g, &g->norm, g->x, g->back, g->dx);
}

static void mlp_block_backward(model *g, size_t l)
{
    layer *y = &g->layers[l];
    hold h = {.at = g->here};
    hold_add(&h, y->kept[MIDDLE], TERRACE_READ);
    hold_add(&h, y->kept[HIDDEN], TERRACE_READ);
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
    hold h = {.at = g->here};
    for (int i = IN; i <= LOGS; i++)
        hold_add(&h, y->kept[i], TERRACE_READ);
    hold_acquire(&h);
    if (l > 0) {
        prefetch(g, y[-1].kept[MIDDLE]);
        prefetch(g, y[-1].kept[HIDDEN]);
    }

    linear_backward(g, &y->p[PROJECT], hold_at(&h, MIXED), g->dx, g->back);
    attend_backward(&g->c, g->dwide, g->back, hold_at(&h, HEADS), hold_at(&h, MIXED),
                       hold_at(&h, LOGS));
    norm_again(g, &y->p[NORM_1], hold_at(&h, IN));
    linear_backward(g, &y->p[QKV], g->normed, g->dwide, g->back);
    gain_backward(g, &y->p[NORM_1], hold_at(&h, IN), g->back, g->dx);
    hold_release(&h);
    kept_destroy(g, l, IN, LOGS);
}

/* The gradient and update of an embedding table. */
static void table_backward(model *g, parameter *p, const int *inputs)
{
    hold h = {.at = g->here};
    hold_add(&h, p->weight, TERRACE_WRITE);
    hold_add(&h, p->gradient, TERRACE_OVERWRITE);
    hold_acquire(&h);
    table_gradient(hold_at(&h, 1), p->in, g->dx, inputs, g->tokens, g->width);
    update(g, p, &h);
}

static void backward(model *g)
{
    head_backward(g);
    for (size_t l = (size_t)g->cfg.layers; l-- > 0;) {
        mlp_block_backward(g, l);
        attention_block_backward(g, l);
    }
    table_backward(g, &g->position, NULL);
    table_backward(g, &g->token, g->inputs);
}

/* One step of training: the loss before it. Steps count from 0. */
static double train_step(model *g, const corpus *text, long step)
{
    const long warm_up = 4;
    double t = (double)step + 1.0, ramp = t < warm_up ? t / warm_up : 1.0;
    g->rate = (float)(g->cfg.rate * ramp / (1.0 - pow(0.9, t)));
    g->unbias = (float)(1.0 / (1.0 - pow(0.95, t)));
    batch_pick(g, text, step);
    forward(g);
    backward(g);
    check(terrace_step(g->m), "step");
    if (trace)
        fputs("step\n", trace);
    return mean_loss(g);
}

#endif /* GPT_MODEL_H */
