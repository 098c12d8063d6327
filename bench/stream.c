/* stream.c - one pass over more data than the budget holds, reading or writing.
 *
 * usage: stream read|write [BYTES BUDGET TENSOR], sizes in MiB
 *
 * Tensors are used one after the other, round and round, which gives a least
 * recently used policy no hits at all, so that every byte crosses the disk: the
 * rate is the disk path's. A read pass acquires each tensor for reading with
 * the next few prefetched, and looks at one word of every page. A write pass
 * overwrites each, one word of every page, and ends when all is on the disk.
 *
 * The processor time of all threads but the one that uses the tensors, in-kernel
 * workers for their transfers included, is what moving the bytes costs.
 *
 * Prints "ready" after the first, unmeasured writing of everything, which lays
 * the spill out; then for every line on its input makes one pass and prints
 * one JSON object. bench/run.sh alternates this with fio. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#include "terrace.h"

enum { MIB = 1 << 20, PAGE = 4096, AHEAD = 8 };

struct job {
    terrace *m;
    terrace_tier host, disk;
    terrace_tensor **t;
    size_t n, bytes;
    uint64_t sum;
};

static void must(int r)
{
    if (r) {
        fprintf(stderr, "stream: %s\n", terrace_last_error());
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void read_pass(struct job *j)
{
    for (size_t i = 0; i < AHEAD; i++)
        must(terrace_prefetch(j->t[i], j->host));
    for (size_t i = 0; i < j->n; i++) {
        unsigned char *p;
        if (i + AHEAD < j->n)
            must(terrace_prefetch(j->t[i + AHEAD], j->host));
        must(terrace_acquire(j->t[i], j->host, TERRACE_READ, NULL, (void **)&p, NULL));
        for (size_t at = 0; at < j->bytes; at += PAGE)
            j->sum += *(uint64_t *)(p + at);
        must(terrace_release(j->t[i], p, NULL));
    }
}

static void write_pass(struct job *j)
{
    for (size_t i = 0; i < j->n; i++) {
        unsigned char *p;
        must(terrace_acquire(j->t[i], j->host, TERRACE_OVERWRITE, NULL, (void **)&p, NULL));
        for (size_t at = 0; at < j->bytes; at += PAGE)
            *(uint64_t *)(p + at) = i + at;
        must(terrace_release(j->t[i], p, NULL));
    }
    for (size_t i = 0; i < j->n; i++)
        must(terrace_demote(j->t[i], j->disk));
    for (size_t i = 0; i < j->n; i++)
        must(terrace_wait(j->t[i]));
}

static terrace_statistics stats(struct job *j)
{
    terrace_statistics s = {.size = sizeof s};
    must(terrace_stats(j->m, &s));
    return s;
}

static double seconds_of(int who)
{
    struct rusage u;
    getrusage(who, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec) * 1e-6;
}

/* Processor time of the library's threads so far. */
static double others(void)
{
    return seconds_of(RUSAGE_SELF) - seconds_of(RUSAGE_THREAD);
}

static void measured_pass(struct job *j, int writing)
{
    terrace_statistics before = stats(j);
    double start = now(), cpu = others();
    if (writing)
        write_pass(j);
    else
        read_pass(j);
    double seconds = now() - start;
    cpu = others() - cpu;
    terrace_statistics after = stats(j);
    uint64_t moved = writing ? after.writeback_bytes - before.writeback_bytes
                             : after.fill_bytes - before.fill_bytes;
    printf("{\"bench\": \"stream\", \"pass\": \"%s\", \"seconds\": %.3f, \"bytes\": %zu, "
           "\"moved_bytes\": %llu, \"GBps\": %.3f, \"stall_s\": %.3f, \"cpu_percent_per_GBps\": %.2f}\n",
           writing ? "write" : "read", seconds, j->n * j->bytes, (unsigned long long)moved,
           (double)moved / seconds * 1e-9, (double)(after.stall_ns - before.stall_ns) * 1e-9,
           100.0 * cpu / ((double)moved * 1e-9));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 5) {
        fprintf(stderr, "usage: stream read|write [BYTES BUDGET TENSOR] (sizes in MiB)\n");
        return 2;
    }
    struct job j = {.bytes = (argc > 4 ? strtoul(argv[4], NULL, 10) : 8) * MIB};
    j.n = (argc > 4 ? strtoul(argv[2], NULL, 10) : 4096) * MIB / j.bytes;
    char conf[64];
    snprintf(conf, sizeof conf, "policy=lru;limit_host=%sM", argc > 4 ? argv[3] : "512");
    must(terrace_open(&j.m, conf));
    must(terrace_tier_find(j.m, "host", &j.host));
    must(terrace_tier_find(j.m, "disk", &j.disk));
    j.t = calloc(j.n, sizeof *j.t);
    if (!j.t)
        return 1;
    for (size_t i = 0; i < j.n; i++)
        must(terrace_tensor_create(j.m, j.bytes, NULL, &j.t[i]));
    write_pass(&j);
    puts("ready");
    fflush(stdout);
    char line[8];
    while (fgets(line, sizeof line, stdin))
        measured_pass(&j, strcmp(argv[1], "write") == 0);
    terrace_close(j.m);
    free(j.t);
    return 0;
}
