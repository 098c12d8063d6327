/* inference.c - the loop of a model larger than memory: layer by layer, the
 * weights are read, for every new token of a few sequences, and never change.
 *
 * usage: inference --engine NAME [--size MIB] [--limit MIB] [--folder DIR] ...;
 *        see bench/loop/
 *
 * The weights are in a file in the folder, written where it is not there yet,
 * and left there. A layer has four matrices, of 3, 1, 4 and 4 parts: a gated
 * mixing block and a feed-forward block, each a visit. What is carried from
 * layer to layer is small and stays in memory. */
#include "loop/loop.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { SEQUENCES = 2, PER_LAYER = 4, WIDEST = 4, STRIPE = 64 };

static const size_t parts[PER_LAYER] = {3, 1, 4, 4};

typedef struct model {
    size_t width;
    float *x, *wide; /* SEQUENCES rows: of the width, and of the widest matrix */
    char file[4096];
} model;

static void fill(const loop *l, size_t tensor, void *address)
{
    const model *g = l->own;
    float *p = address, scale = 2.0f / sqrtf((float)g->width);
    size_t n = l->bytes[tensor] / sizeof *p;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++)
        p[i] = scale * ((float)(loop_mix(tensor << 32 | i) >> 40) / 16777216.0f - 0.5f);
}

static void plan(const loop *l, uint64_t step, size_t i, visit *out)
{
    (void)l, (void)step;
    *out = (visit){.n = 2, .tensor = {(uint32_t)(2 * i), (uint32_t)(2 * i + 1)}, .mode = {'r', 'r'}};
}

/* y = x W, for all sequences; W has `in` rows. A thread has columns to itself. */
static void multiply(float *y, const float *x, const float *w, size_t in, size_t out)
{
#pragma omp parallel for schedule(static)
    for (size_t j0 = 0; j0 < out; j0 += STRIPE) {
        float sum[SEQUENCES][STRIPE] = {{0}};
        for (size_t i = 0; i < in; i++)
            for (size_t s = 0; s < SEQUENCES; s++)
                for (size_t j = 0; j < STRIPE; j++)
                    sum[s][j] += x[s * in + i] * w[i * out + j0 + j];
        for (size_t s = 0; s < SEQUENCES; s++)
            memcpy(y + s * out + j0, sum[s], sizeof sum[s]);
    }
}

/* Adds y to x, and brings each row of x back to length 1 per element. */
static void add_normed(float *x, const float *y, size_t width)
{
    for (size_t s = 0; s < SEQUENCES; s++) {
        float squares = 0.0f;
        for (size_t i = 0; i < width; i++) {
            float *to = &x[s * width + i];
            *to += y[s * width + i];
            squares += *to * *to;
        }
        for (size_t i = 0; i < width; i++)
            x[s * width + i] /= sqrtf(squares / (float)width) + 1e-6f;
    }
}

static void compute(loop *l, uint64_t step, size_t i, void *const *address)
{
    model *g = l->own;
    size_t w = g->width, n = SEQUENCES * w;
    float *out = g->wide + SEQUENCES * WIDEST * w;
    if (i == 0) /* a new token each */
        for (size_t k = 0; k < n; k++)
            g->x[k] += (float)(loop_mix(step << 32 | k) >> 40) / 16777216.0f - 0.5f;
    if (i % 2 == 0) {
        multiply(g->wide, g->x, address[0], w, 3 * w);
        for (size_t s = 0; s < SEQUENCES; s++)
            for (size_t k = 0; k < w; k++) {
                const float *row = g->wide + s * 3 * w;
                float gate = 1.0f / (1.0f + fabsf(row[k]));
                g->wide[s * w + k] = gate * row[w + k] + (1.0f - gate) * row[2 * w + k];
            }
        multiply(out, g->wide, address[1], w, w);
    } else {
        multiply(g->wide, g->x, address[0], w, 4 * w);
        for (size_t k = 0; k < 4 * n; k++)
            g->wide[k] = fmaxf(g->wide[k], 0.0f);
        multiply(out, g->wide, address[1], 4 * w, w);
    }
    add_normed(g->x, out, w);
}

static uint64_t result(const loop *l)
{
    const model *g = l->own;
    uint64_t sum = 0;
    for (size_t i = 0; i < SEQUENCES * g->width; i++) {
        uint32_t bits;
        memcpy(&bits, &g->x[i], sizeof bits);
        sum = loop_mix(sum ^ bits);
    }
    return sum;
}

static void prepare(loop *l)
{
    static model g;
    const loop_options *o = l->options;
    g.width = o->size >= 1024ul * LOOP_MIB ? 1024 : 512;
    size_t part = g.width * g.width * sizeof(float), layers = o->size / (12 * part);
    if (!layers)
        loop_fail("--size must be at least %zu", 12 * part / LOOP_MIB);
    g.x = loop_need(calloc(SEQUENCES * g.width, sizeof(float)));
    g.wide = loop_need(calloc(SEQUENCES * g.width * (WIDEST + 1), sizeof(float)));
    if (snprintf(g.file, sizeof g.file, "%s/terrace-bench-weights.%zu", o->folder, o->size / LOOP_MIB) >=
        (int)sizeof g.file)
        loop_fail("--folder is too long");
    l->own = &g;
    l->file = g.file;
    l->tensors = PER_LAYER * layers;
    l->bytes = loop_need(calloc(l->tensors, sizeof *l->bytes));
    for (size_t i = 0; i < l->tensors; i++)
        l->bytes[i] = parts[i % PER_LAYER] * part;
    l->fill = fill;
    l->result = result;
    l->step = (work){2 * layers, true, true, plan, compute};
}

int main(int argc, char **argv)
{
    loop_options defaults = {.size = 2048ul * LOOP_MIB, .piece = LOOP_MIB, .folder = "/var/tmp",
                             .warm = 2, .steps = 3, .seconds = 1e9};
    return loop_main(argc, argv, defaults, prepare);
}
