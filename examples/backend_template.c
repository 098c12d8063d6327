/* backend_template.c - a tier backend of one's own, complete and as small as it gets.
 *
 * Start from a copy of this file. Here the "device" is ordinary memory that the rest
 * of the program keeps away from, so that it works everywhere; each comment says what
 * stands there for a real one. It is built into a library by itself, and used so:
 *
 *   cc -shared -fPIC $(pkg-config --cflags terrace) backend_template.c -o libterrace-template.so
 *   terrace backend-check $PWD/libterrace-template.so
 *   TERRACE_BACKENDS=$PWD/libterrace-template.so terrace info
 *
 * terrace_backend.h says what every function may assume and must do. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "terrace_backend.h"

enum { DEPTH = 16 };
static const uint64_t CAPACITY = 256u << 20;

struct range {
    struct range *next;
    uint64_t base, bytes;
};

struct unit {
    const terrace_host *host;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct range *ranges;
    terrace_io *queue[DEPTH]; /* taken, not handed back yet; oldest first */
    unsigned queued;
    int woken;
};

/* A real one asks its runtime, which it opens with dlopen(): where that is missing
 * there are 0 devices, and host->fail() says why. */
static int template_count(const terrace_host *host)
{
    (void)host;
    return 1;
}

static int template_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    pthread_condattr_t clock;
    if (index != 0)
        return host->fail(host->context, -TERRACE_ENOENT, "there is one template device, not number %d", index);
    struct unit *u = calloc(1, sizeof *u);
    if (!u)
        return host->fail(host->context, -TERRACE_ENOMEM, "no host memory for template:%d", index);
    u->host = host;
    pthread_mutex_init(&u->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&u->changed, &clock);
    pthread_condattr_destroy(&clock);
    info->capacity = CAPACITY; /* what the device has free */
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "256 MiB of host memory in place of a device's");
    info->granule = 2 << 20;
    info->page = 4096;
    info->io_chunk = 4 << 20; /* large enough for a copy to be worth its start */
    info->io_depth = DEPTH;
    snprintf(info->location, sizeof info->location, "an example: host memory");
    snprintf(info->engine, sizeof info->engine, "memcpy");
    snprintf(info->engine_reason, sizeof info->engine_reason, "the template has no other");
    *unit = u;
    return 0;
}

static void template_close(void *unit)
{
    struct unit *u = unit;
    pthread_cond_destroy(&u->changed);
    pthread_mutex_destroy(&u->lock);
    free(u);
}

/* ---- memory ------------------------------------------------------------- */

/* Addresses without memory. A device that cannot do that sets TERRACE_UNIT_WHOLE in
 * info->flags, allocates here, and does nothing in commit and decommit. */
static int template_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    struct unit *u = unit;
    struct range *r = malloc(sizeof *r);
    size_t granule = 2 << 20;
    (void)flags;
    char *p = bytes < UINT64_MAX / 2
                  ? mmap(NULL, bytes + granule, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
                  : MAP_FAILED;
    if (!r || p == MAP_FAILED) {
        free(r);
        return u->host->fail(u->host->context, -TERRACE_ENOMEM, "no %llu bytes of addresses for template:0",
                             (unsigned long long)bytes);
    }
    char *start = (char *)(((uintptr_t)p + granule - 1) & ~(uintptr_t)(granule - 1));
    if (start > p)
        munmap(p, (size_t)(start - p));
    if (start < p + granule)
        munmap(start + bytes, (size_t)(p + granule - start));
    pthread_mutex_lock(&u->lock);
    *r = (struct range){.next = u->ranges, .base = (uintptr_t)start, .bytes = bytes};
    u->ranges = r;
    pthread_mutex_unlock(&u->lock);
    *base = (uintptr_t)start;
    return 0;
}

static void template_release(void *unit, uint64_t base, uint64_t bytes)
{
    struct unit *u = unit;
    pthread_mutex_lock(&u->lock);
    struct range **link = &u->ranges;
    while (*link && (*link)->base != base)
        link = &(*link)->next;
    struct range *r = *link;
    if (r)
        *link = r->next;
    pthread_mutex_unlock(&u->lock);
    free(r);
    munmap((void *)(uintptr_t)base, bytes);
}

static int template_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct unit *u = unit;
    if (mprotect((void *)(uintptr_t)address, bytes, PROT_READ | PROT_WRITE) == 0)
        return 0;
    return u->host->fail(u->host->context, -TERRACE_EDEVMEM, "template:0 has no %llu bytes left",
                         (unsigned long long)bytes);
}

static void template_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    madvise((void *)(uintptr_t)address, bytes, MADV_DONTNEED);
    mprotect((void *)(uintptr_t)address, bytes, PROT_NONE);
}

/* ---- copies ------------------------------------------------------------- */

/* A real one starts asynchronous copies here, in a queue of its own for each
 * direction, and marks each with an event. */
static int template_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct unit *u = unit;
    unsigned taken = 0;
    pthread_mutex_lock(&u->lock);
    while (taken < n && u->queued < DEPTH)
        u->queue[u->queued++] = list[taken++];
    pthread_cond_signal(&u->changed);
    pthread_mutex_unlock(&u->lock);
    return (int)taken;
}

static void copy(const struct unit *u, terrace_io *io)
{
    const struct range *r = u->ranges;
    while (r && !(io->address >= r->base && io->address + io->bytes <= r->base + r->bytes))
        r = r->next;
    io->result = r ? 0 : -TERRACE_EINVAL; /* here a runtime's codes become terrace's */
    io->os_error = 0;
    io->cpu_copied = r ? io->bytes : 0; /* 0 where the device copies */
    if (!r)
        return;
    if (io->op == TERRACE_IO_WRITE)
        memcpy((void *)(uintptr_t)io->address, io->host, io->bytes);
    else
        memcpy(io->host, (const void *)(uintptr_t)io->address, io->bytes);
}

static struct timespec until(int64_t timeout_ns)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    t.tv_sec += (time_t)(timeout_ns / 1000000000);
    t.tv_nsec += (long)(timeout_ns % 1000000000);
    if (t.tv_nsec >= 1000000000) {
        t.tv_sec++;
        t.tv_nsec -= 1000000000;
    }
    return t;
}

/* A real one asks its events. This one does the copies now. */
static int template_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct unit *u = unit;
    struct timespec end = until(timeout_ns > 0 ? timeout_ns : 0);
    unsigned n = 0;
    int late = timeout_ns == 0;
    pthread_mutex_lock(&u->lock);
    while (!u->queued && !u->woken && !late)
        late = timeout_ns < 0 ? pthread_cond_wait(&u->changed, &u->lock)
                              : pthread_cond_timedwait(&u->changed, &u->lock, &end);
    for (; n < max && n < u->queued; n++) {
        copy(u, u->queue[n]);
        done[n] = u->queue[n];
    }
    memmove(u->queue, u->queue + n, (u->queued - n) * sizeof u->queue[0]);
    u->queued -= n;
    u->woken = 0;
    pthread_mutex_unlock(&u->lock);
    return (int)n;
}

static void template_wake(void *unit)
{
    struct unit *u = unit;
    pthread_mutex_lock(&u->lock);
    u->woken = 1;
    pthread_cond_signal(&u->changed);
    pthread_mutex_unlock(&u->lock);
}

/* A real one adds its runtime's own words for io->os_error. */
static void template_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    (void)unit;
    snprintf(buf, len, "%s %zu bytes at 0x%llx of template:0: not its memory",
             io->op == TERRACE_IO_READ ? "reading" : "writing", io->bytes, (unsigned long long)io->address);
}

static const terrace_backend template_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "template",
    .tier_class = TERRACE_CLASS_DEVICE,
    .caps = 0, /* no TERRACE_CAP_CPU: its addresses are no pointers for the rest of the program */
    .count = template_count,
    .open = template_open,
    .close = template_close,
    .reserve = template_reserve,
    .release = template_release,
    .commit = template_commit,
    .decommit = template_decommit,
    .submit = template_submit,
    .wait = template_wait,
    .wake = template_wake,
    .explain = template_explain,
};

TERRACE_BACKEND_PLUGIN(template_backend)
