/* prog_budget.c - 4 GiB through a budget of 256 MiB, checked to the byte.
 *
 * Tensors of 8 MiB are written, then modified in an order that strides through
 * them, then read in order and in reverse. Prints the peak resident memory and
 * fails if any byte is wrong or the peak passes 330 MiB: the budget, and what a
 * process needs besides. usage: prog_budget [TOTAL-MiB BUDGET-MiB PEAK-MiB] */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>

#include "terrace.h"

enum { MIB = 1 << 20, TENSOR = 8 * MIB, WORDS = TENSOR / 8, STRIDE = 7 };

static void must(int r)
{
    if (r) {
        fprintf(stderr, "prog_budget: %s\n", terrace_last_error());
        exit(1);
    }
}

static uint64_t word(uint64_t tensor, uint64_t i, int modified)
{
    return (tensor * WORDS + i) * 0x9e3779b97f4a7c15u ^ (modified ? ~0ull : 0);
}

static uint64_t *acquire(terrace_tensor *t, unsigned mode)
{
    void *p;
    must(terrace_acquire(t, 0, mode, NULL, &p, NULL));
    return p;
}

static void modify(terrace_tensor *t)
{
    uint64_t *p = acquire(t, TERRACE_READ | TERRACE_WRITE);
    for (uint64_t i = 0; i < WORDS; i += 2) /* every other word */
        p[i] ^= ~0ull;
    must(terrace_release(t, p, NULL));
}

static uint64_t wrong_words(terrace_tensor *t, uint64_t n)
{
    uint64_t wrong = 0, *p = acquire(t, TERRACE_READ);
    for (uint64_t i = 0; i < WORDS; i++)
        wrong += p[i] != word(n, i, i % 2 == 0);
    must(terrace_release(t, p, NULL));
    return wrong;
}

int main(int argc, char **argv)
{
    size_t total = argc > 3 ? strtoul(argv[1], NULL, 10) : 4096;
    size_t budget = argc > 3 ? strtoul(argv[2], NULL, 10) : 256;
    size_t peak = argc > 3 ? strtoul(argv[3], NULL, 10) : 330;
    size_t n = total * MIB / TENSOR;
    char conf[64];
    terrace *m;
    snprintf(conf, sizeof conf, "limit_host=%zuM", budget);
    must(terrace_open(&m, conf));
    terrace_tensor **t = calloc(n, sizeof *t);
    for (size_t i = 0; t && i < n; i++) {
        must(terrace_tensor_create(m, TENSOR, NULL, &t[i]));
        uint64_t *p = acquire(t[i], TERRACE_OVERWRITE);
        for (size_t w = 0; w < WORDS; w++)
            p[w] = word(i, w, 0);
        must(terrace_release(t[i], p, NULL));
    }
    for (size_t s = 0; s < STRIDE; s++)
        for (size_t i = s; i < n; i += STRIDE)
            modify(t[i]);
    uint64_t wrong = 0;
    for (size_t i = 0; i < n; i++)
        wrong += wrong_words(t[i], i);
    for (size_t i = n; i-- > 0;)
        wrong += wrong_words(t[i], i);
    terrace_close(m);
    free(t);

    struct rusage use;
    getrusage(RUSAGE_SELF, &use);
    printf("%zu MiB through %zu MiB: %llu words wrong, peak resident %ld MiB (at most %zu)\n", total,
           budget, (unsigned long long)wrong, use.ru_maxrss / 1024, peak);
    return wrong || (size_t)use.ru_maxrss / 1024 > peak;
}
