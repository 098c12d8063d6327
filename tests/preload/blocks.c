/* blocks.c - what malloc's family promises, of small and large blocks. */
#include <malloc.h>

#include "job.h"

static const size_t SIZES[] = {1, 100, 4096, 100000, MIB - 1, MIB, 2 * MIB - 4096, 2 * MIB, 5 * MIB + 3, 17 * MIB};
enum { COUNT = sizeof SIZES / sizeof SIZES[0] };

static void allocates(void)
{
    for (int i = 0; i < COUNT; i++) {
        size_t n = SIZES[i];
        errno = 55;
        char *p = malloc(n);
        NEED(p && !((uintptr_t)p % 16) && errno == 55);
        NEED(malloc_usable_size(p) >= n);
        memset(p, 7, malloc_usable_size(p));
        free(p);
        NEED(errno == 55);
        p = calloc(n, 1);
        NEED(p && job_is_zero(p, n));
        free(p);
    }
    free(NULL);
    NEED(malloc_usable_size(NULL) == 0);
    volatile size_t absurd = SIZE_MAX - 4096;
    NEED(!malloc(absurd) && errno == ENOMEM);
    volatile size_t half = SIZE_MAX / 2;
    errno = 0;
    NEED(!calloc(half, 3) && errno == ENOMEM);
    errno = 0;
    NEED(!reallocarray(NULL, half, 3) && errno == ENOMEM);
}

static void reallocates(void)
{
    for (int i = 0; i < COUNT; i++)
        for (int k = 0; k < COUNT; k++) {
            size_t a = SIZES[i], b = SIZES[k], least = a < b ? a : b;
            char *p = malloc(a);
            NEED(p);
            for (size_t j = 0; j < a; j += 997)
                p[j] = (char)(j * 31 + i);
            p[a - 1] = 99;
            p = realloc(p, b);
            NEED(p);
            for (size_t j = 0; j < least - (a == least); j += 997)
                NEED(p[j] == (char)(j * 31 + i));
            NEED(b < a || p[a - 1] == 99);
            memset(p, 1, b);
            free(p);
        }
    char *p = realloc(NULL, 3 * MIB);
    NEED(p && !realloc(p, 0));
}

static void grows_step_by_step(void)
{
    char *p = NULL;
    size_t had = 0;
    for (size_t n = 1000; n < 80 * MIB; had = n, n += n / 3) {
        p = realloc(p, n);
        NEED(p);
        for (size_t j = had; j < n; j += 1024)
            p[j] = (char)(j >> 10);
    }
    for (size_t j = 1024; j < had; j += 1024 * 1024)
        NEED(p[j / 1024 * 1024] || 1);
    for (size_t n = 40 * MIB; n > 1000; n /= 2) {
        p = realloc(p, n);
        NEED(p);
    }
    free(p);
}

static void aligns(void)
{
    for (int i = 0; i < COUNT; i++)
        for (size_t alignment = sizeof(void *); alignment <= 8 * MIB; alignment *= 4) {
            void *p = NULL;
            NEED(posix_memalign(&p, alignment, SIZES[i]) == 0 && p && !((uintptr_t)p % alignment));
            memset(p, 3, SIZES[i]);
            free(p);
            p = aligned_alloc(alignment, SIZES[i]);
            NEED(p && !((uintptr_t)p % alignment));
            free(p);
            p = memalign(alignment, SIZES[i]);
            NEED(p && !((uintptr_t)p % alignment));
            p = realloc(p, SIZES[i] + 5);
            NEED(p);
            free(p);
        }
    void *p = NULL;
    NEED(posix_memalign(&p, 3, 100) == EINVAL && posix_memalign(&p, 4, 100) == EINVAL && !p);
    p = valloc(3 * MIB + 1);
    NEED(p && !((uintptr_t)p % 4096));
    free(p);
    p = pvalloc(3 * MIB + 1);
    NEED(p && !((uintptr_t)p % 4096) && malloc_usable_size(p) >= 3 * MIB + 4096);
    free(p);
}

static void keeps_bytes(void)
{
    enum { BLOCKS = 24 };
    char *p[BLOCKS];
    size_t n = SPILLS / BLOCKS;
    for (int i = 0; i < BLOCKS; i++) {
        NEED(p[i] = malloc(n));
        job_fill(p[i], n, (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i += 2) {
        free(p[i]);
        NEED(p[i] = calloc(1, n));
    }
    for (int i = 0; i < BLOCKS; i++) {
        NEED(i % 2 ? job_has(p[i], n, (uint64_t)i) : job_is_zero(p[i], n));
        free(p[i]);
    }
}

/* Three times the budget in blocks that are large by TERRACE_MIN_SIZE only. */
static void smaller(void)
{
    enum { BYTES = 200000, BLOCKS = SPILLS / BYTES };
    static char *p[BLOCKS];
    for (int i = 0; i < BLOCKS; i++) {
        NEED(p[i] = malloc(BYTES));
        job_fill(p[i], BYTES, (uint64_t)i);
    }
    for (int i = 0; i < BLOCKS; i++) {
        NEED(job_has(p[i], BYTES, (uint64_t)i));
        free(p[i]);
    }
}

int main(int argc, char **argv)
{
    return job_run((const struct job[]){{"allocates", allocates},
                                        {"reallocates", reallocates},
                                        {"grows", grows_step_by_step},
                                        {"aligns", aligns},
                                        {"keeps", keeps_bytes},
                                        {"smaller", smaller},
                                        {0}},
                   argc, argv);
}
