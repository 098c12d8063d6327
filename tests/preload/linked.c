/* linked.c - a program that uses terrace itself, and is preloaded.
 *
 * usage: linked first|last   whether its manager is opened before its large blocks are */
#include <terrace.h>

#include "job.h"

static uint64_t limit_of(terrace *m)
{
    terrace_tier_statistics s = {.size = sizeof s};
    NEED(terrace_tier_stats(m, 0, &s) == 0);
    return s.limit;
}

static uint64_t used_of(terrace *m)
{
    terrace_tier_statistics s = {.size = sizeof s};
    NEED(terrace_tier_stats(m, 0, &s) == 0);
    return s.extents;
}

int main(int argc, char **argv)
{
    terrace *m = NULL, *again, *other;
    terrace_tier host;
    bool first = argc > 1 && strcmp(argv[1], "first") == 0;
    if (first)
        NEED(terrace_open(&m, NULL) == 0);
    char *p = malloc(SPILLS);
    job_fill(p, SPILLS, 1);
    if (!first)
        NEED(terrace_open(&m, "") == 0);
    NEED(terrace_open(&again, NULL) == 0 && again == m);
    NEED(limit_of(m) == BUDGET && used_of(m) > 4); /* malloc's block is in it */
    terrace_close(again);
    NEED(terrace_open(&other, "limit_host=16M") == 0 && other != m && limit_of(other) == BUDGET / 2);
    terrace_close(other);
    terrace_tensor *t[32];
    NEED(terrace_tier_find(m, "host", &host) == 0);
    for (int i = 0; i < 32; i++) {
        void *a;
        NEED(terrace_tensor_create(m, 3 * MIB, NULL, &t[i]) == 0);
        NEED(terrace_acquire(t[i], host, TERRACE_OVERWRITE, NULL, &a, NULL) == 0);
        job_fill(a, 3 * MIB, (uint64_t)i);
        NEED(terrace_release(t[i], a, NULL) == 0);
    }
    char *q = terrace_malloc(m, SPILLS, host, NULL);
    NEED(q);
    job_fill(q, SPILLS, 2);
    NEED(job_has(p, SPILLS, 1) && job_has(q, SPILLS, 2));
    for (int i = 0; i < 32; i++) {
        void *a;
        NEED(terrace_acquire(t[i], host, TERRACE_READ, NULL, &a, NULL) == 0);
        NEED(job_has(a, 3 * MIB, (uint64_t)i));
        NEED(terrace_release(t[i], a, NULL) == 0);
        terrace_tensor_destroy(t[i]);
    }
    terrace_free(m, q);
    terrace_close(m); /* the program's own blocks outlast it */
    NEED(job_has(p, SPILLS, 1));
    job_fill(p, SPILLS, 3);
    NEED(job_has(p, SPILLS, 3));
    free(p);
    return 0;
}
