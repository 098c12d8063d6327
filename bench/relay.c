/* relay.c - from one device to another: against the slower of its two legs.
 *
 * usage: relay [--tensor MIB] [--count N] [--runs N] [--least SHARE] [FROM TO]
 *
 * For each two devices, or those named, tensors are written on the one and then brought
 * to the other with read-ahead, and the same is done for the legs by themselves: from
 * the one to host memory, and from there to the other. A route that reads and writes at
 * the same time takes as long as the slower leg alone, one that does not, as both.
 *
 * Prints a table, and last one JSON object; medians of the runs. With --least it fails
 * where the rate of a route is a smaller share of its slower leg's. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "terrace.h"

enum { MIB = 1 << 20, MOST_RUNS = 99, TIERS = 16 };

static struct job {
    terrace *m;
    terrace_tier host;
    terrace_tensor **t;
    size_t n, bytes, runs;
    double least;
    int pairs, short_of;
} job = {.n = 16, .bytes = 8 * MIB, .runs = 5};

static void must(int r)
{
    if (r) {
        fprintf(stderr, "relay: %s\n", terrace_last_error());
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void use_all(terrace_tier tier, unsigned mode)
{
    for (size_t i = 0; i < job.n; i++) {
        void *p;
        must(terrace_acquire(job.t[i], tier, mode | TERRACE_WAIT, TERRACE_HOST_SYNC, &p, NULL));
        must(terrace_release(job.t[i], p, TERRACE_HOST_SYNC));
    }
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* Bytes per second, of tensors that are on the one tier alone to the other. */
static double rate(terrace_tier from, terrace_tier to)
{
    double seconds[MOST_RUNS];
    for (size_t run = 0; run < job.runs; run++) {
        use_all(from, TERRACE_OVERWRITE);
        double start = now();
        for (size_t i = 0; i < job.n; i++)
            must(terrace_prefetch(job.t[i], to));
        use_all(to, TERRACE_READ);
        seconds[run] = now() - start;
    }
    qsort(seconds, job.runs, sizeof *seconds, by_size);
    return (double)(job.n * job.bytes) / seconds[job.runs / 2];
}

static void measure(terrace_tier from, terrace_tier to, FILE *json)
{
    char a[40], b[40], way[80];
    must(terrace_tier_name(job.m, from, a, sizeof a));
    must(terrace_tier_name(job.m, to, b, sizeof b));
    must(terrace_route(job.m, from, to, way, sizeof way));
    double out = rate(from, job.host), in = rate(job.host, to), route = rate(from, to);
    double slower = out < in ? out : in;
    printf("%-12s%-12s%8.3f%8.3f%8.3f%8.2f  %s\n", a, b, out * 1e-9, in * 1e-9, route * 1e-9, route / slower, way);
    fflush(stdout);
    fprintf(json, "%s{\"from\": \"%s\", \"to\": \"%s\", \"way\": \"%s\", \"out_GBps\": %.3f, \"in_GBps\": %.3f, "
            "\"GBps\": %.3f, \"of_slower\": %.3f}", job.pairs++ ? ", " : "", a, b, way, out * 1e-9, in * 1e-9,
            route * 1e-9, route / slower);
    job.short_of += route < job.least * slower;
}

static void measure_all(FILE *json)
{
    terrace_tier device[TIERS];
    int n = 0;
    terrace_tier_statistics s = {.size = sizeof s};
    for (terrace_tier t = 0; t < TIERS && terrace_tier_stats(job.m, t, &s) == 0; t++)
        if (strcmp(s.tier_class, "device") == 0)
            device[n++] = t;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < n; k++)
            if (i != k)
                measure(device[i], device[k], json);
}

static void tensors_create(void)
{
    job.t = calloc(job.n, sizeof *job.t);
    if (!job.t)
        exit(1);
    for (size_t i = 0; i < job.n; i++)
        must(terrace_tensor_create(job.m, job.bytes, NULL, &job.t[i]));
}

static void usage(void)
{
    fprintf(stderr, "usage: relay [--tensor MIB] [--count N] [--runs N] [--least SHARE] [FROM TO]\n");
    exit(2);
}

/* Where the names begin. */
static int options(int argc, char **argv)
{
    int i = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        size_t n = strtoul(argv[i + 1], NULL, 10);
        if (!strcmp(argv[i], "--least"))
            job.least = strtod(argv[i + 1], NULL);
        else if (!strcmp(argv[i], "--tensor") && n)
            job.bytes = n * MIB;
        else if (!strcmp(argv[i], "--count") && n)
            job.n = n;
        else if (!strcmp(argv[i], "--runs") && n && n <= MOST_RUNS)
            job.runs = n;
        else
            usage();
    }
    if (i != argc && i + 2 != argc)
        usage();
    return i;
}

int main(int argc, char **argv)
{
    int names = options(argc, argv);
    char *text = NULL;
    size_t length = 0;
    FILE *json = open_memstream(&text, &length);
    if (!json)
        return 1;
    must(terrace_open(&job.m, NULL));
    must(terrace_tier_find(job.m, "host", &job.host));
    tensors_create();
    printf("%zu tensors of %zu MiB; GB/s (10^9), medians of %zu\n%-12s%-12s%8s%8s%8s%8s\n", job.n, job.bytes / MIB,
           job.runs, "from", "to", "out", "in", "route", "share");
    if (names < argc) {
        terrace_tier from, to;
        must(terrace_tier_find(job.m, argv[names], &from));
        must(terrace_tier_find(job.m, argv[names + 1], &to));
        measure(from, to, json);
    } else {
        measure_all(json);
    }
    fclose(json);
    printf("{\"bench\": \"relay\", \"bytes\": %zu, \"routes\": [%s]}\n", job.n * job.bytes, text);
    terrace_close(job.m);
    free(text);
    free(job.t);
    if (job.short_of)
        fprintf(stderr, "relay: %d of %d routes are slower than %.2f of their slower leg\n", job.short_of, job.pairs,
                job.least);
    return job.short_of != 0;
}
