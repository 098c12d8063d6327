/* prog_watched.c - a program for others to look at: eight tensors of 2 MiB go through
 * a budget of 8 MiB, again and again, a step each time.
 *
 * usage: prog_watched SECONDS [MANAGERS]
 *
 * At least three steps. Its settings are those of the environment. Prints "ready" when the first step is
 * over; after that long, a JSON object of what the statistics say, and "end". Then it
 * closes its managers, unless WATCHED_LEAVES_OPEN is set. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "terrace.h"

enum { TENSORS = 8, BYTES = 2 << 20, MANAGERS = 4, STEPS = 3 /* at least */ };

static terrace *manager[MANAGERS];
static terrace_tensor *tensor[MANAGERS][TENSORS];

static void must(int r)
{
    if (r) {
        fprintf(stderr, "prog_watched: %s\n", terrace_last_error());
        exit(1);
    }
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void make(int m)
{
    must(terrace_open(&manager[m], NULL));
    for (int i = 0; i < TENSORS; i++) {
        char label[64];
        terrace_tensor_attr attr = {.size = sizeof attr, .label = label};
        snprintf(label, sizeof label, "layers/%d/\"w\"\\\n\033[2J\xff\xc3\xa9", i);
        must(terrace_tensor_create(manager[m], (size_t)BYTES - (size_t)i * 65536, &attr, &tensor[m][i]));
    }
}

static void step(int m)
{
    terrace_tier host;
    void *p;
    must(terrace_tier_find(manager[m], "host", &host));
    for (int i = 0; i < TENSORS; i++) {
        must(terrace_acquire(tensor[m][i], host, TERRACE_READ | TERRACE_WRITE, NULL, &p, NULL));
        memset(p, i, 65536);
        must(terrace_release(tensor[m][i], p, NULL));
    }
    must(terrace_step(manager[m]));
}

/* Until nothing moves any more, ahead of use or down. */
static void settle(int m)
{
    terrace_statistics s = {.size = sizeof s};
    uint64_t moved, before = 0;
    for (int still = 0; still < 5; still = moved == before ? still + 1 : 0, before = moved) {
        struct timespec nap = {.tv_nsec = 20000000};
        for (int i = 0; i < TENSORS; i++)
            must(terrace_wait(tensor[m][i]));
        nanosleep(&nap, NULL);
        must(terrace_stats(manager[m], &s));
        moved = s.fill_bytes + s.writeback_bytes;
    }
}

static void say(terrace *m)
{
    terrace_statistics s = {.size = sizeof s};
    must(terrace_stats(m, &s));
    printf("{\"acquires\":%" PRIu64 ",\"steps\":%" PRIu64 ",\"stalls\":%" PRIu64 ",\"stall_ns\":%" PRIu64
           ",\"fill_bytes\":%" PRIu64 ",\"writeback_bytes\":%" PRIu64 ",\"tiers\":[", s.acquires, s.steps, s.stalls,
           s.stall_ns, s.fill_bytes, s.writeback_bytes);
    for (terrace_tier i = 0;; i++) {
        terrace_tier_statistics t = {.size = sizeof t};
        if (terrace_tier_stats(m, i, &t))
            break;
        printf("%s{\"name\":\"%s\",\"in_bytes\":%" PRIu64 ",\"out_bytes\":%" PRIu64 "}", i ? "," : "", t.name,
               t.in_bytes, t.out_bytes);
    }
    puts("]}");
}

int main(int argc, char **argv)
{
    double until = now() + (argc > 1 ? strtod(argv[1], NULL) : 1);
    int managers = argc > 2 ? atoi(argv[2]) : 1;
    if (managers < 1 || managers > MANAGERS)
        return 2;
    for (int m = 0; m < managers; m++)
        make(m);
    for (int steps = 0; steps < STEPS || now() < until; steps++) {
        for (int m = 0; m < managers; m++)
            step(m);
        if (steps == 0)
            puts("ready");
        fflush(stdout);
    }
    for (int m = 0; m < managers; m++)
        settle(m);
    for (int m = 0; m < managers; m++)
        say(manager[m]);
    puts("end");
    fflush(stdout);
    for (int m = 0; m < managers && !getenv("WATCHED_LEAVES_OPEN"); m++)
        terrace_close(manager[m]);
    return 0;
}
