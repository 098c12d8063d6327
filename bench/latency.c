/* latency.c - what acquire + release of a resident tensor cost: with a thousand
 * tensors in random order, next to a bare pair of mutex lock and unlock, the least
 * that any locked manager pays twice; with a million; and what two threads on
 * different tensors gain over one, next to two threads on atomic counters of their own.
 *
 * usage: latency [TENSORS]    how many in place of a million; 0: leave that out
 *
 * Those are of 33 KiB, which is not small; their memory is never touched.
 * Prints one JSON object: medians in nanoseconds. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "terrace.h"

enum { ROUNDS = 31, CALLS = 200000, TENSORS = 1000, BYTES = 64 << 10, MANY_ROUNDS = 7, MANY_BYTES = 33 << 10 };

static terrace *m;
static terrace_tier host;

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

static void *array(size_t n, size_t bytes)
{
    void *p = calloc(n, bytes);
    if (!p) {
        fprintf(stderr, "latency: no memory for an array of %zu\n", n);
        exit(1);
    }
    return p;
}

static void open_manager(const char *conf)
{
    must(terrace_open(&m, conf));
    must(terrace_tier_find(m, "numa:0", &host));
}

/* Resident tensors, in order of creation. */
static terrace_tensor **tensors_new(size_t n, size_t bytes)
{
    terrace_tensor **t = array(n, sizeof *t);
    void *p;
    for (size_t i = 0; i < n; i++) {
        must(terrace_tensor_create(m, bytes, NULL, &t[i]));
        must(terrace_acquire(t[i], host, TERRACE_OVERWRITE, NULL, &p, NULL));
        must(terrace_release(t[i], p, NULL));
    }
    return t;
}

static void shuffle(terrace_tensor **t, size_t n)
{
    uint64_t x = 1;
    for (size_t i = n; i > 1; i--) {
        x = x * 6364136223846793005u + 1442695040888963407u;
        size_t j = (x >> 33) % i;
        terrace_tensor *other = t[i - 1];
        t[i - 1] = t[j];
        t[j] = other;
    }
}

static double pairs_ns(terrace_tensor **t, size_t n, size_t calls)
{
    void *p;
    double start = now_ns();
    for (size_t i = 0, k = 0; i < calls; i++, k = k + 1 == n ? 0 : k + 1) {
        must(terrace_acquire(t[k], host, TERRACE_READ, NULL, &p, NULL));
        must(terrace_release(t[k], p, NULL));
    }
    return (now_ns() - start) / (double)calls;
}

static double mutex_ns(void)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    double start = now_ns();
    for (int i = 0; i < CALLS; i++) {
        pthread_mutex_lock(&lock);
        pthread_mutex_unlock(&lock);
    }
    return (now_ns() - start) / CALLS;
}

/* ---- two threads -------------------------------------------------------- */

struct job {
    pthread_barrier_t *start;
    terrace_tensor **t; /* NULL: the counter */
    _Alignas(64) atomic_ulong counter;
};

static void *job_run(void *arg)
{
    struct job *j = arg;
    pthread_barrier_wait(j->start);
    if (j->t)
        pairs_ns(j->t, TENSORS / 2, CALLS);
    for (size_t i = 0; !j->t && i < 4 * CALLS; i++)
        atomic_fetch_add(&j->counter, 1);
    return NULL;
}

/* Seconds, in ns, until as many threads have done the same each. */
static double jobs_ns(struct job *job, unsigned threads)
{
    pthread_barrier_t start;
    pthread_t thread[2];
    pthread_barrier_init(&start, NULL, threads + 1);
    for (unsigned i = 0; i < threads; i++) {
        job[i].start = &start;
        if (pthread_create(&thread[i], NULL, job_run, &job[i]))
            exit(1);
    }
    pthread_barrier_wait(&start);
    double begin = now_ns();
    for (unsigned i = 0; i < threads; i++)
        pthread_join(thread[i], NULL);
    double took = now_ns() - begin;
    pthread_barrier_destroy(&start);
    return took;
}

/* How many times as much two threads do than one. */
static double scaling(terrace_tensor **t)
{
    struct job job[2] = {{.t = t}, {.t = t ? t + TENSORS / 2 : NULL}};
    return 2 * jobs_ns(job, 1) / jobs_ns(job, 2);
}

/* ---- all of it ---------------------------------------------------------- */

static void thousand(void)
{
    double pair[ROUNDS], mutex[ROUNDS];
    open_manager("limit_host=256M");
    terrace_tensor **t = tensors_new(TENSORS, BYTES);
    shuffle(t, TENSORS);
    for (int i = 0; i < ROUNDS; i++) { /* alternated, so that noise meets both */
        pair[i] = pairs_ns(t, TENSORS, CALLS);
        mutex[i] = mutex_ns();
    }
    double a = median(pair, ROUNDS), b = median(mutex, ROUNDS);
    printf("{\"bench\": \"latency\", \"tensors\": %d, \"acquire_release_ns\": %.1f, \"mutex_pair_ns\": %.1f, "
           "\"ratio\": %.2f", TENSORS, a, b, a / b);
    terrace_close(m);
    free(t);
}

static void two_threads(void)
{
    double threads[ROUNDS], counters[ROUNDS];
    open_manager("limit_host=256M");
    terrace_tensor **t = tensors_new(TENSORS, BYTES);
    shuffle(t, TENSORS);
    for (int i = 0; i < ROUNDS; i++) {
        threads[i] = scaling(t);
        counters[i] = scaling(NULL);
    }
    double a = median(threads, ROUNDS), b = median(counters, ROUNDS);
    printf(", \"two_threads\": %.2f, \"two_counters\": %.2f, \"scaling\": %.2f", a, b, a / b);
    terrace_close(m);
    free(t);
}

static void many(size_t n)
{
    double created[MANY_ROUNDS], shuffled[MANY_ROUNDS];
    open_manager("limit_host=256G"); /* of addresses */
    terrace_tensor **t = tensors_new(n, MANY_BYTES);
    for (int i = 0; i < MANY_ROUNDS; i++)
        created[i] = pairs_ns(t, n, n);
    shuffle(t, n);
    for (int i = 0; i < MANY_ROUNDS; i++)
        shuffled[i] = pairs_ns(t, n, n);
    printf(", \"many\": %zu, \"many_in_order_ns\": %.1f, \"many_at_random_ns\": %.1f", n,
           median(created, MANY_ROUNDS), median(shuffled, MANY_ROUNDS));
    terrace_close(m);
    free(t);
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 1000000;
    thousand();
    two_threads();
    if (n)
        many(n);
    puts("}");
    return 0;
}
