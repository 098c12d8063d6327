/* million.c - a million tensors: created, written, read back through a budget of
 * a tenth of them, next to the same bytes in tensors of 2 MiB.
 *
 * usage: million [TENSORS [BYTES-OF-ONE [ROUNDS]]]
 *
 * The two take turns. Prints one JSON object: medians of seconds, how many bytes
 * of host memory a tensor takes besides its own, and whether all bytes were right. */
#include <malloc.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "terrace.h"

enum { MOST_ROUNDS = 32, LARGE = 2 << 20 };

struct result {
    double create, write, read, total, metadata;
    bool right;
};

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void must(int r, const char *what)
{
    if (r) {
        fprintf(stderr, "bench/million: %s: %s\n", what, terrace_last_error());
        exit(1);
    }
}

static double resident(void)
{
    char line[200] = "";
    FILE *f = fopen("/proc/self/statm", "r");
    if (f && !fgets(line, sizeof line, f))
        line[0] = '\0';
    if (f)
        fclose(f);
    const char *second = strchr(line, ' ');
    return second ? (double)strtoul(second, NULL, 10) * 4096 : 0;
}

/* Every word of every tensor differs. */
static void fill(uint64_t *p, size_t words, uint64_t first)
{
    for (size_t i = 0; i < words; i++)
        p[i] = (first + i) * UINT64_C(0x9e3779b97f4a7c15);
}

static bool filled(const uint64_t *p, size_t words, uint64_t first)
{
    uint64_t wrong = 0;
    for (size_t i = 0; i < words; i++)
        wrong |= p[i] ^ (first + i) * UINT64_C(0x9e3779b97f4a7c15);
    return !wrong;
}

static struct result pass(size_t n, size_t bytes)
{
    struct result r = {.right = true};
    char conf[100];
    terrace *m;
    terrace_tier host;
    void *p;
    snprintf(conf, sizeof conf, "tiers=numa:0,nvme:0;limit_host=%zu", n * bytes / 10);
    must(terrace_open(&m, conf), "opening");
    must(terrace_tier_find(m, "numa:0", &host), "looking for the host tier");
    terrace_tensor **t = malloc(n * sizeof(terrace_tensor *));
    if (!t)
        exit(1);
    memset(t, 0, n * sizeof(terrace_tensor *));
    malloc_trim(0);
    double start = seconds(), begin = start, before = resident();
    for (size_t i = 0; i < n; i++)
        must(terrace_tensor_create(m, bytes, NULL, &t[i]), "creating");
    r.create = seconds() - start;
    r.metadata = (resident() - before) / (double)n;
    start = seconds();
    for (size_t i = 0; i < n; i++) {
        must(terrace_acquire(t[i], host, TERRACE_OVERWRITE, NULL, &p, NULL), "acquiring to write");
        fill(p, bytes / 8, i * bytes);
        must(terrace_release(t[i], p, NULL), "releasing");
    }
    r.write = seconds() - start;
    start = seconds();
    for (size_t i = 0; i < n; i++) {
        must(terrace_acquire(t[i], host, TERRACE_READ, NULL, &p, NULL), "acquiring to read");
        r.right &= filled(p, bytes / 8, i * bytes);
        must(terrace_release(t[i], p, NULL), "releasing");
    }
    r.read = seconds() - start;
    r.total = seconds() - begin;
    for (size_t i = 0; i < n; i++)
        terrace_tensor_destroy(t[i]);
    terrace_close(m);
    free(t);
    return r;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

static void show(const char *name, size_t n, size_t bytes, const struct result *r, int rounds)
{
    double create[MOST_ROUNDS] = {0}, write[MOST_ROUNDS] = {0}, read[MOST_ROUNDS] = {0}, total[MOST_ROUNDS] = {0};
    for (int i = 0; i < rounds; i++) {
        create[i] = r[i].create;
        write[i] = r[i].write;
        read[i] = r[i].read;
        total[i] = r[i].total;
    }
    printf(" \"%s\": {\"tensors\": %zu, \"bytes_each\": %zu, \"create_s\": %.3f, \"write_s\": %.3f, "
           "\"read_s\": %.3f, \"total_s\": %.3f, \"metadata_bytes_each\": %.1f},\n",
           name, n, bytes, median(create, rounds), median(write, rounds), median(read, rounds),
           median(total, rounds), r[0].metadata);
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? strtoull(argv[1], NULL, 0) : 1000000;
    size_t bytes = argc > 2 ? strtoull(argv[2], NULL, 0) : 4096;
    int rounds = argc > 3 ? (int)strtol(argv[3], NULL, 0) : 3;
    struct result small[MOST_ROUNDS], large[MOST_ROUNDS];
    double ratio[MOST_ROUNDS];
    bool right = true;
    if (n < 1 || bytes < 8 || n * bytes < 10 * (size_t)LARGE || rounds < 1 || rounds > MOST_ROUNDS) {
        fputs("usage: million [TENSORS [BYTES-OF-ONE [ROUNDS]]]\n", stderr);
        return 2;
    }
    size_t large_n = (n * bytes + LARGE - 1) / LARGE;
    for (int i = 0; i < rounds; i++) {
        small[i] = pass(n, bytes);
        large[i] = pass(large_n, LARGE);
        ratio[i] = small[i].total / large[i].total;
        right &= small[i].right && large[i].right;
        fprintf(stderr, "  million %d/%d: %.1f s, in tensors of 2 MiB %.1f s\n", i + 1, rounds, small[i].total,
                large[i].total);
    }
    printf("{\"bench\": \"million\",\n");
    show("small", n, bytes, small, rounds);
    show("large", large_n, LARGE, large, rounds);
    printf(" \"time_ratio\": %.3f, \"bytes_right\": %s}\n", median(ratio, rounds), right ? "true" : "false");
    return right ? 0 : 1;
}
