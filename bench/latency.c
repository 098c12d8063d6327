/* latency.c - what acquire + release of a resident tensor cost, next to a bare
 * pair of mutex lock and unlock, the least that any locked manager pays twice.
 *
 * Prints one JSON object: medians in nanoseconds. */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "terrace.h"

enum { ROUNDS = 31, CALLS = 200000, TENSORS = 64 };

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, size_t n)
{
    qsort(v, n, sizeof *v, by_value);
    return v[n / 2];
}

static void must(int r)
{
    if (r) {
        fprintf(stderr, "latency: %s\n", terrace_last_error());
        exit(1);
    }
}

static double pairs_ns(terrace_tensor **t, terrace_tier host)
{
    void *p;
    double start = now_ns();
    for (int i = 0; i < CALLS; i++) {
        must(terrace_acquire(t[i % TENSORS], host, TERRACE_READ, NULL, &p, NULL));
        must(terrace_release(t[i % TENSORS], p, NULL));
    }
    return (now_ns() - start) / CALLS;
}

static double mutex_ns(pthread_mutex_t *lock)
{
    double start = now_ns();
    for (int i = 0; i < CALLS; i++) {
        pthread_mutex_lock(lock);
        pthread_mutex_unlock(lock);
    }
    return (now_ns() - start) / CALLS;
}

int main(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    double pair[ROUNDS], mutex[ROUNDS];
    terrace_tensor *t[TENSORS];
    terrace_tier host;
    terrace *m;
    void *p;
    must(terrace_open(&m, "limit_host=64M"));
    must(terrace_tier_find(m, "numa:0", &host));
    for (int i = 0; i < TENSORS; i++) {
        must(terrace_tensor_create(m, 64 << 10, NULL, &t[i]));
        must(terrace_acquire(t[i], host, TERRACE_OVERWRITE, NULL, &p, NULL));
        must(terrace_release(t[i], p, NULL));
    }
    for (int i = 0; i < ROUNDS; i++) { /* alternated, so that noise meets both */
        pair[i] = pairs_ns(t, host);
        mutex[i] = mutex_ns(&lock);
    }
    double a = median(pair, ROUNDS), b = median(mutex, ROUNDS);
    printf("{\"bench\": \"latency\", \"acquire_release_ns\": %.1f, \"mutex_pair_ns\": %.1f, "
           "\"ratio\": %.2f}\n", a, b, a / b);
    terrace_close(m);
    return 0;
}
