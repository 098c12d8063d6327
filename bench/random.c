/* random.c - a loop without a pattern: nothing can be learned from a step
 * about the next.
 *
 * usage: random --engine NAME [--size MIB] [--piece MIB] [--kind uniform|zipf]
 *               [--limit MIB] [--folder DIR] ...; see bench/loop/
 *
 * Each visit uses one tensor drawn at random, each as likely as any other, or
 * the k-th most popular with a probability that falls with 1/k; half of the
 * visits change it. A step has as many visits as there are tensors. */
#include "loop/loop.h"

#include <stdlib.h>
#include <string.h>

/* How often tensors up to each are drawn, out of UINT32_MAX; NULL: uniformly. */
static uint32_t *popular(size_t n)
{
    uint32_t *upto = loop_need(calloc(n, sizeof *upto));
    double sum = 0, part = 0;
    for (size_t i = 0; i < n; i++)
        sum += 1.0 / (double)(i + 1);
    for (size_t i = 0; i < n; i++)
        upto[i] = (uint32_t)((part += 1.0 / (double)(i + 1)) / sum * (double)(UINT32_MAX - 1));
    return upto;
}

static size_t draw(const loop *l, uint32_t number)
{
    const uint32_t *upto = l->own;
    if (!upto)
        return (size_t)((uint64_t)number * l->tensors >> 32);
    size_t low = 0, high = l->tensors - 1;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (upto[middle] < number)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static void plan(const loop *l, uint64_t step, size_t i, visit *out)
{
    uint64_t random = loop_mix((step + 1) * 0x9e3779b97f4a7c15u + loop_mix(i + 1));
    *out = (visit){.n = 1, .tensor = {(uint32_t)draw(l, (uint32_t)random)},
                   .mode = {random >> 63 ? 'w' : 'r'}};
}

static void fill(const loop *l, size_t tensor, void *address)
{
    uint64_t *p = address;
    for (size_t i = 0; i < l->bytes[tensor] / sizeof *p; i++)
        p[i] = loop_mix(tensor << 32 | i);
}

static volatile uint64_t sink; /* so that reading is not left out */

static void compute(loop *l, uint64_t step, size_t i, void *const *address)
{
    uint64_t *p = address[0], sum = 0;
    visit v;
    plan(l, step, i, &v);
    size_t n = l->bytes[v.tensor[0]] / sizeof *p;
#pragma omp parallel for simd schedule(static) reduction(+ : sum)
    for (size_t k = 0; k < n; k++)
        sum += p[k];
    sink += sum;
    if (v.mode[0] == 'w') {
#pragma omp parallel for simd schedule(static)
        for (size_t k = 0; k < n; k++)
            p[k] = p[k] * 3 + step;
    }
}

static void prepare(loop *l)
{
    const char *kind = l->options->kind ? l->options->kind : "uniform";
    if (strcmp(kind, "uniform") != 0 && strcmp(kind, "zipf") != 0)
        loop_fail("--kind is '%s'; it can be uniform or zipf", kind);
    l->tensors = l->options->size / l->options->piece;
    l->bytes = loop_need(calloc(l->tensors, sizeof *l->bytes));
    for (size_t i = 0; i < l->tensors; i++)
        l->bytes[i] = l->options->piece;
    if (*kind == 'z')
        l->own = popular(l->tensors);
    l->fill = fill;
    l->step = (work){l->tensors, false, false, plan, compute};
}

int main(int argc, char **argv)
{
    loop_options defaults = {.size = 2048ul * LOOP_MIB, .piece = 2ul * LOOP_MIB, .folder = "/var/tmp",
                             .warm = 2, .steps = 3, .seconds = 1e9};
    return loop_main(argc, argv, defaults, prepare);
}
