/* measure.c - bandwidths of the tiers, through the public API only.
 *
 * A host tier: the CPU writes tensors that are there, then reads them; where
 * there are several, it also copies from one to the other. A disk
 * tier: tensors written on the host are demoted to it, then brought back with
 * read-ahead. A device's: tensors written on the host are brought to it with
 * read-ahead, and, once they are changed there, back. So the figures are what a program gets, bookkeeping and
 * pipelining included, not what the hardware could do. */
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cli.h"

#define MIB ((uint64_t)1 << 20)

enum { TENSOR_MIB = 8, TENSORS = 32 };

struct measurement {
    terrace *m;
    terrace_tier tier;
    const char *name;
    terrace_tensor *tensor[TENSORS];
    int n;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* A line that is written over, where somebody is looking. */
static void progress(const struct measurement *x, const char *what, int done)
{
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r\033[Kmeasuring %s: %s %d of %d MiB", x->name, what, done * TENSOR_MIB,
            x->n * TENSOR_MIB);
}

static void progress_end(void)
{
    if (isatty(STDERR_FILENO))
        fputs("\r\033[K", stderr);
}

/* ---- what is measured ---------------------------------------------------- */

static uint64_t sum(const uint64_t *words, size_t bytes)
{
    uint64_t s = 0;
    for (size_t i = 0; i < bytes / sizeof *words; i++)
        s += words[i];
    return s;
}

/* Keeps the reads from being left out. */
static volatile uint64_t sink;

/* Writes or reads one tensor with the CPU on a host tier. */
static int touch(terrace_tensor *t, terrace_tier tier, unsigned mode)
{
    void *address;
    int err = terrace_acquire(t, tier, mode | TERRACE_WAIT, TERRACE_HOST_SYNC, &address, NULL);
    if (err)
        return err;
    if (mode == TERRACE_READ)
        sink = sum(address, TENSOR_MIB * MIB);
    else
        memset(address, 0xa5, TENSOR_MIB * MIB);
    return terrace_release(t, address, TERRACE_HOST_SYNC);
}

static int touch_all(struct measurement *x, terrace_tier tier, unsigned mode, const char *what)
{
    int err = 0;
    for (int i = 0; i < x->n && !err; i++) {
        err = touch(x->tensor[i], tier, mode);
        progress(x, what, i + 1);
    }
    return err;
}

static int demote_all(struct measurement *x)
{
    int err = 0;
    for (int i = 0; i < x->n && !err; i++)
        err = terrace_demote(x->tensor[i], x->tier);
    for (int i = 0; i < x->n && !err; i++) {
        err = terrace_wait(x->tensor[i]);
        progress(x, "writing", i + 1);
    }
    return err;
}

static int measure_host(struct measurement *x, double *write, double *read)
{
    int err = touch_all(x, x->tier, TERRACE_OVERWRITE, "preparing");
    double start = now();
    if (!err)
        err = touch_all(x, x->tier, TERRACE_OVERWRITE, "writing");
    *write = now() - start;
    start = now();
    if (!err)
        err = touch_all(x, x->tier, TERRACE_READ, "reading");
    *read = now() - start;
    return err;
}

static int measure_disk(struct measurement *x, double *write, double *read)
{
    terrace_tier host;
    int err = terrace_tier_find(x->m, "host", &host);
    if (!err)
        err = touch_all(x, host, TERRACE_OVERWRITE, "preparing");
    double start = now();
    if (!err)
        err = demote_all(x);
    *write = now() - start;
    start = now();
    for (int i = 0; i < x->n && !err; i++)
        err = terrace_prefetch(x->tensor[i], host);
    if (!err)
        err = touch_all(x, host, TERRACE_READ, "reading");
    *read = now() - start;
    return err;
}

/* Has all tensors on a tier for a moment, with read-ahead, without looking at them. */
static int bring_all(struct measurement *x, terrace_tier tier, unsigned mode, const char *what)
{
    int err = 0;
    for (int i = 0; i < x->n && !err; i++)
        err = terrace_prefetch(x->tensor[i], tier);
    for (int i = 0; i < x->n && !err; i++) {
        void *address;
        err = terrace_acquire(x->tensor[i], tier, mode | TERRACE_WAIT, TERRACE_HOST_SYNC, &address, NULL);
        if (!err)
            err = terrace_release(x->tensor[i], address, TERRACE_HOST_SYNC);
        progress(x, what, i + 1);
    }
    return err;
}

static int measure_device(struct measurement *x, double *write, double *read)
{
    terrace_tier host;
    int err = terrace_tier_find(x->m, "host", &host);
    if (!err)
        err = touch_all(x, host, TERRACE_OVERWRITE, "preparing");
    double start = now();
    if (!err)
        err = bring_all(x, x->tier, TERRACE_READ, "writing");
    *write = now() - start;
    if (!err)
        err = bring_all(x, x->tier, TERRACE_WRITE, "changing"); /* now they are only there */
    start = now();
    if (!err)
        err = bring_all(x, host, TERRACE_READ, "reading");
    *read = now() - start;
    return err;
}

/* ---- how much ------------------------------------------------------------ */

/* At most a quarter of what is free in this tier and in each host tier. */
static int tensors_allowed(terrace *m, const terrace_tier_statistics *tier)
{
    uint64_t allowed = tier->limit - (tier->used < tier->limit ? tier->used : tier->limit);
    terrace_tier_statistics s = {.size = sizeof s};
    for (terrace_tier i = 0; !terrace_tier_stats(m, i, &s); i++) {
        uint64_t left = s.limit - (s.used < s.limit ? s.used : s.limit);
        if (!strcmp(s.tier_class, "host") && left < allowed)
            allowed = left;
    }
    uint64_t n = allowed / 4 / (TENSOR_MIB * MIB);
    return n < TENSORS ? (int)n : TENSORS;
}

static int create(struct measurement *x, int n)
{
    int err = 0;
    while (x->n < n && !err) {
        err = terrace_tensor_create(x->m, TENSOR_MIB * MIB, NULL, &x->tensor[x->n]);
        x->n += !err;
    }
    return err;
}

static void destroy(struct measurement *x)
{
    while (x->n)
        terrace_tensor_destroy(x->tensor[--x->n]);
}

static const char too_little[] = "too little room: a quarter of what is free must hold 8 MiB";

int measure_tier(terrace *m, terrace_tier tier, struct bandwidth *out)
{
    struct bandwidth b = {0};
    terrace_tier_statistics s = {.size = sizeof s};
    int err = terrace_tier_stats(m, tier, &s);
    if (err)
        return err;
    bool host = !strcmp(s.tier_class, "host"), disk = !strcmp(s.tier_class, "disk");
    int n = tensors_allowed(m, &s);
    if (!n)
        b.why_not = too_little;
    struct measurement x = {.m = m, .tier = tier, .name = s.name};
    if (!b.why_not) {
        double write = 0, read = 0, bytes = (double)n * (double)(TENSOR_MIB * MIB);
        err = create(&x, n);
        if (!err)
            err = (host ? measure_host : disk ? measure_disk : measure_device)(&x, &write, &read);
        b.write = bytes / write;
        b.read = bytes / read;
        progress_end();
    }
    destroy(&x);
    if (!err)
        *out = b;
    return err;
}

/* Has the tensors on one tier only. */
static int put_all(struct measurement *x, terrace_tier from, bool disk)
{
    terrace_tier host;
    int err = terrace_tier_find(x->m, "host", &host);
    if (!err)
        err = touch_all(x, host, TERRACE_OVERWRITE, "preparing");
    if (!err && !disk)
        return bring_all(x, from, TERRACE_WRITE, "preparing");
    x->tier = from;
    return err ? err : demote_all(x);
}

int measure_route(terrace *m, terrace_tier from, terrace_tier to, struct bandwidth *out)
{
    terrace_tier_statistics a = {.size = sizeof a}, b = {.size = sizeof b};
    struct bandwidth result = {0};
    int err = terrace_tier_stats(m, from, &a);
    if (!err)
        err = terrace_tier_stats(m, to, &b);
    if (err)
        return err;
    int n = tensors_allowed(m, &a), other = tensors_allowed(m, &b);
    n = n < other ? n : other;
    struct measurement x = {.m = m, .name = b.name};
    if (n == 0)
        result.why_not = too_little;
    for (int round = 0; round < 2 && n && !err; round++) { /* only the second time is the memory there */
        err = create(&x, n);
        if (!err)
            err = put_all(&x, from, !strcmp(a.tier_class, "disk"));
        double start = now();
        x.tier = to;
        if (!err)
            err = !strcmp(b.tier_class, "disk") ? demote_all(&x) : bring_all(&x, to, TERRACE_READ, "moving");
        result.write = n * (double)(TENSOR_MIB * MIB) / (now() - start);
        destroy(&x);
    }
    progress_end();
    if (!err)
        *out = result;
    return err;
}

/* Half of the tensors are copied to the other half, twice: only the second time
 * is the memory there. */
static int copy_all(struct measurement *x, terrace_tier to, double *seconds)
{
    int half = x->n / 2, err = 0;
    for (int round = 0; round < 2 && !err; round++) {
        double start = now();
        for (int i = 0; i < half && !err; i++) {
            void *source, *target;
            err = terrace_acquire(x->tensor[i], x->tier, TERRACE_READ | TERRACE_WAIT, TERRACE_HOST_SYNC,
                                  &source, NULL);
            if (err)
                break;
            err = terrace_acquire(x->tensor[half + i], to, TERRACE_OVERWRITE | TERRACE_WAIT,
                                  TERRACE_HOST_SYNC, &target, NULL);
            if (!err) {
                memcpy(target, source, TENSOR_MIB * MIB);
                err = terrace_release(x->tensor[half + i], target, TERRACE_HOST_SYNC);
            }
            terrace_release(x->tensor[i], source, TERRACE_HOST_SYNC);
            progress(x, "copying", i + 1);
        }
        *seconds = now() - start;
    }
    return err;
}

int measure_copy(terrace *m, terrace_tier from, terrace_tier to, struct bandwidth *out)
{
    terrace_tier_statistics s = {.size = sizeof s};
    int err = terrace_tier_stats(m, from, &s);
    if (err)
        return err;
    struct bandwidth b = {0};
    int n = tensors_allowed(m, &s) / 2 * 2;
    if (n) {
        struct measurement x = {.m = m, .tier = from, .name = s.name};
        double seconds = 0;
        err = create(&x, n);
        for (int i = 0; i < n / 2 && !err; i++)
            err = touch(x.tensor[i], from, TERRACE_OVERWRITE);
        if (!err)
            err = copy_all(&x, to, &seconds);
        b.write = 0.5 * n * (double)(TENSOR_MIB * MIB) / seconds;
        progress_end();
        destroy(&x);
    } else {
        b.why_not = too_little;
    }
    if (!err)
        *out = b;
    return err;
}
