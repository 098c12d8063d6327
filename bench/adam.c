/* adam.c - the loop of an optimizer: every step goes once over all state.
 *
 * usage: adam --engine NAME [--size MIB] [--piece MIB] [--kind split|joint]
 *             [--limit MIB] [--folder DIR] ...; see bench/loop/
 *
 * Weights, gradients and Adam's two moments, float32, in pieces. split: each is
 * a tensor, gradients are only read. joint: a tensor has a quarter of each and
 * changes as a whole. */
#include "loop/loop.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool joint(const loop *l)
{
    return *(const bool *)l->own;
}

/* Small numbers of either sign; second moments are not negative. */
static void fill(const loop *l, size_t tensor, void *address)
{
    float *p = address;
    size_t n = l->bytes[tensor] / sizeof *p;
#pragma omp parallel for schedule(static)
    for (size_t i = 0; i < n; i++) {
        float x = (float)(loop_mix(tensor << 32 | i) >> 40) / 16777216.0f - 0.5f;
        size_t part = joint(l) ? 4 * i / n : tensor % 4;
        p[i] = part == 3 ? x * x * 0.01f : x;
    }
}

static void plan(const loop *l, uint64_t step, size_t i, visit *out)
{
    (void)step;
    if (joint(l))
        *out = (visit){.n = 1, .tensor = {(uint32_t)i}, .mode = {'w'}};
    else
        *out = (visit){.n = 4, .tensor = {(uint32_t)(4 * i), (uint32_t)(4 * i + 1), (uint32_t)(4 * i + 2),
                                          (uint32_t)(4 * i + 3)},
                       .mode = {'w', 'r', 'w', 'w'}};
}

static void adam(float *restrict w, const float *restrict g, float *restrict m, float *restrict v, size_t n,
                 float rate, float unbias)
{
    const float b1 = 0.9f, b2 = 0.999f, epsilon = 1e-8f;
#pragma omp parallel for simd schedule(static)
    for (size_t i = 0; i < n; i++) {
        m[i] = b1 * m[i] + (1.0f - b1) * g[i];
        v[i] = b2 * v[i] + (1.0f - b2) * g[i] * g[i];
        w[i] -= rate * m[i] / (sqrtf(v[i] * unbias) + epsilon);
    }
}

static void compute(loop *l, uint64_t step, size_t i, void *const *address)
{
    double t = (double)step + 1.0;
    float rate = (float)(1e-3 / (1.0 - pow(0.9, t))), unbias = (float)(1.0 / (1.0 - pow(0.999, t)));
    size_t n = l->bytes[0] / sizeof(float);
    (void)i;
    if (joint(l)) {
        float *w = address[0];
        n /= 4;
        adam(w, w + n, w + 2 * n, w + 3 * n, n, rate, unbias);
    } else {
        adam(address[0], address[1], address[2], address[3], n, rate, unbias);
    }
}

static void prepare(loop *l)
{
    static bool is_joint;
    const char *kind = l->options->kind ? l->options->kind : "split";
    size_t group;
    is_joint = strcmp(kind, "joint") == 0;
    if (!is_joint && strcmp(kind, "split") != 0)
        loop_fail("--kind is '%s'; it can be split or joint", kind);
    group = is_joint ? 1 : 4;
    l->own = &is_joint;
    l->tensors = l->options->size / l->options->piece / group * group;
    if (!l->tensors)
        loop_fail("--size must be at least four times --piece");
    l->bytes = loop_need(calloc(l->tensors, sizeof *l->bytes));
    for (size_t i = 0; i < l->tensors; i++)
        l->bytes[i] = l->options->piece;
    l->fill = fill;
    l->step = (work){l->tensors / group, true, false, plan, compute};
}

int main(int argc, char **argv)
{
    loop_options defaults = {.size = 2048ul * LOOP_MIB, .piece = 8ul * LOOP_MIB, .folder = "/var/tmp",
                             .ahead = 0, .warm = 2, .steps = 3, .seconds = 1e9};
    return loop_main(argc, argv, defaults, prepare);
}
