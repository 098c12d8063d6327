/* plain.c - terrace's functions over plain memory: what a program is without it.
 *
 * Preloaded into a program that uses tensors on the host (examples/gpt), it
 * takes the library's place: all tensors are mapped all the time, and the
 * kernel does what it does when they do not fit. Environment:
 *   BENCH_MEMORY  anonymous (then the kernel swaps), or the folder of a file
 *                 that is mapped shared
 *   BENCH_ADVICE  huge, sequential, willneed (at every prefetch); joined by '+'
 *   BENCH_TRACE   file for the accesses, as bound.py reads them
 * For programs that call terrace from one thread. */
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "terrace.h"

#define EXPORT __attribute__((visibility("default")))

static const size_t address_space = (size_t)1 << 40, page = 4096;

struct terrace_tensor {
    terrace *m;
    unsigned long name;
    size_t bytes;   /* rounded up to pages */
    size_t asked;
    char *at;
    bool dirty;     /* may hold what an earlier tensor left there */
    terrace_tensor *next; /* in the list of those free */
};

struct terrace {
    char *base;
    size_t used;
    terrace_tensor *freed; /* their memory is taken again for the same size */
    unsigned long names;
    terrace_statistics s;
    bool willneed;
    FILE *trace;
};

static void fail(const char *what)
{
    fprintf(stderr, "plain: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void trace(const terrace *m, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (m->trace)
        vfprintf(m->trace, format, args);
    va_end(args);
}

EXPORT int terrace_open(terrace **out, const char *conf)
{
    const char *memory = getenv("BENCH_MEMORY"), *advice = getenv("BENCH_ADVICE"), *to = getenv("BENCH_TRACE");
    int fd = -1, flags = MAP_PRIVATE | MAP_ANONYMOUS;
    terrace *m = calloc(1, sizeof *m);
    (void)conf;
    if (!m)
        fail("memory");
    if (memory && strcmp(memory, "anonymous") != 0) {
        fd = open(memory, O_RDWR | O_TMPFILE, 0600);
        if (fd < 0 || ftruncate(fd, (off_t)address_space))
            fail(memory);
        flags = MAP_SHARED;
    }
    m->base = mmap(NULL, address_space, PROT_READ | PROT_WRITE, flags | MAP_NORESERVE, fd, 0);
    if (m->base == MAP_FAILED)
        fail("mmap");
    if (advice && strstr(advice, "huge"))
        madvise(m->base, address_space, MADV_HUGEPAGE);
    if (advice && strstr(advice, "sequential"))
        madvise(m->base, address_space, MADV_SEQUENTIAL);
    m->willneed = advice && strstr(advice, "willneed");
    if (to && !(m->trace = fopen(to, "w")))
        fail(to);
    *out = m;
    return 0;
}

EXPORT void terrace_close(terrace *m)
{
    if (m->trace)
        fclose(m->trace);
    munmap(m->base, address_space);
    free(m); /* tensors are the process's to free */
}

EXPORT int terrace_tier_find(terrace *m, const char *name, terrace_tier *out)
{
    (void)m, (void)name;
    *out = 0;
    return 0;
}

EXPORT int terrace_tensor_create(terrace *m, size_t bytes, const terrace_tensor_attr *attr, terrace_tensor **out)
{
    size_t whole = (bytes + page - 1) & ~(page - 1);
    terrace_tensor **from = &m->freed, *t;
    (void)attr;
    while (*from && (*from)->bytes != whole)
        from = &(*from)->next;
    t = *from;
    if (t) {
        *from = t->next;
    } else {
        t = calloc(1, sizeof *t);
        if (!t)
            fail("memory");
        *t = (terrace_tensor){.m = m, .bytes = whole, .at = m->base + m->used};
        m->used += whole;
    }
    t->asked = bytes;
    t->name = m->names++;
    m->s.tensors++;
    m->s.tensor_bytes += bytes;
    trace(m, "new %lu %zu %zu\n", t->name, whole, bytes);
    *out = t;
    return 0;
}

EXPORT void terrace_tensor_destroy(terrace_tensor *t)
{
    if (!t)
        return;
    trace(t->m, "free %lu\n", t->name);
    t->m->s.tensors--;
    t->m->s.tensor_bytes -= t->asked;
    t->dirty = true;
    t->next = t->m->freed;
    t->m->freed = t;
}

EXPORT int terrace_acquire(terrace_tensor *t, terrace_tier tier, unsigned mode, void *stream, void **address,
                           terrace_tier *where)
{
    (void)tier, (void)stream;
    if (t->dirty && !(mode & TERRACE_OVERWRITE))
        memset(t->at, 0, t->bytes);
    t->dirty = false;
    t->m->s.acquires++;
    t->m->s.hits++;
    trace(t->m, "use %lu %c\n", t->name, mode & TERRACE_OVERWRITE ? 'o' : mode & TERRACE_WRITE ? 'w' : 'r');
    *address = t->at;
    if (where)
        *where = 0;
    return 0;
}

EXPORT int terrace_acquire_all(terrace_access *list, size_t n, void *stream)
{
    for (size_t i = 0; i < n; i++)
        terrace_acquire(list[i].tensor, list[i].tier, list[i].mode, stream, &list[i].address, &list[i].where);
    return 0;
}

EXPORT int terrace_release(terrace_tensor *t, void *address, void *stream)
{
    (void)t, (void)address, (void)stream;
    return 0;
}

EXPORT int terrace_prefetch(terrace_tensor *t, terrace_tier tier)
{
    (void)tier;
    if (t->m->willneed)
        madvise(t->at, t->bytes, MADV_WILLNEED);
    return 0;
}

EXPORT int terrace_demote(terrace_tensor *t, terrace_tier tier)
{
    (void)t, (void)tier;
    return 0;
}

EXPORT int terrace_step(terrace *m)
{
    m->s.steps++;
    trace(m, "step\n");
    return 0;
}

EXPORT int terrace_wait(terrace_tensor *t)
{
    (void)t;
    return 0;
}

EXPORT int terrace_stats(terrace *m, terrace_statistics *out)
{
    m->s.size = out->size;
    memcpy(out, &m->s, out->size < sizeof m->s ? out->size : sizeof m->s);
    return 0;
}

EXPORT int terrace_tier_stats(terrace *m, terrace_tier tier, terrace_tier_statistics *out)
{
    (void)m, (void)tier, (void)out;
    return -TERRACE_EINVAL; /* there are none */
}

EXPORT const char *terrace_last_error(void)
{
    return "";
}

EXPORT const char *terrace_version(void)
{
    return TERRACE_VERSION;
}
