/* simnode.h - simulated memory tiers for tests of the core.
 *
 * "simnode:0" stands for the memory of another node: a slower host tier, whose
 * addresses are plain pointers. "simdev:0" stands for a device's memory, whose
 * addresses the CPU cannot use, and "simacc:0" for that of another make, without
 * streams. All are copied to and from by a queue that can
 * be held (nothing completes until it is let go) and counts what it was asked.
 * Either can have less memory than its capacity, or refuse some at random.
 * A test program that includes this file has them in every manager it opens;
 * name the tiers wanted in TERRACE_TIERS ("simdev:0,numa:0,simnode:0,simdisk:0").
 * Nothing here is hardware. */
#ifndef TERRACE_TESTS_SIMNODE_H
#define TERRACE_TESTS_SIMNODE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "simwait.h"
#include "terrace_backend.h"

enum { SIMNODE_CHUNK = 64 << 10, SIMNODE_DEPTH = 8 };

struct simnode {
    uint64_t shift; /* an address of the tier is a pointer and this */
    pthread_mutex_t lock;
    pthread_cond_t changed;
    terrace_io *queue[SIMNODE_DEPTH];
    unsigned queued;
    bool woken;
    bool held;                        /* nothing completes */
    bool fail;                        /* copies to the node do */
    bool peers_fail;                  /* copies from its like do */
    unsigned submitted, copied;       /* to the node */
    uint64_t read_bytes, written_bytes; /* from the node, to it */
    uint64_t peer_bytes;              /* from its like */
    uint64_t room;                    /* bytes that it commits at most; 0: no end */
    uint64_t committed;
    uint64_t steals;                  /* bytes that others take of what is decommitted next */
    unsigned refuse_one_in;           /* commits, at random; 0: none */
    uint32_t random;
    unsigned refused;                 /* commits */
};
static struct simnode simnode = {.lock = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
static struct simnode simdev = {.shift = 1ull << 62, .lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};
static struct simnode simacc = {.shift = 1ull << 60, .lock = PTHREAD_MUTEX_INITIALIZER,
                                .changed = PTHREAD_COND_INITIALIZER};

static void simgates_check(const struct simnode *n);

/* Where the bytes at an address of a tier are. */
static void *simnode_at(const struct simnode *n, uint64_t address)
{
    return (void *)(uintptr_t)((address & ~(1ull << 61)) - n->shift);
}

static int simnode_count(const terrace_host *host)
{
    (void)host;
    return 1;
}

static int simnode_describe(terrace_unit_info *info)
{
    info->capacity = 1ull << 30;
    snprintf(info->capacity_reason, sizeof info->capacity_reason, "simulated");
    info->page = 4096;
    info->granule = 2 << 20;
    info->io_chunk = SIMNODE_CHUNK;
    info->io_depth = SIMNODE_DEPTH;
    snprintf(info->location, sizeof info->location, "simulated memory");
    snprintf(info->engine, sizeof info->engine, "simulated");
    return 0;
}

static int simnode_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    (void)host, (void)index;
    simnode.committed = 0;
    *unit = &simnode;
    return simnode_describe(info);
}

static int simdev_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    (void)host, (void)index;
    simdev.committed = 0;
    *unit = &simdev;
    return simnode_describe(info);
}

static int simacc_open(const terrace_host *host, int index, terrace_unit_info *info, void **unit)
{
    (void)host, (void)index;
    simacc.committed = 0;
    *unit = &simacc;
    return simnode_describe(info);
}

static void simnode_close(void *unit)
{
    (void)unit;
}

static int simnode_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base)
{
    (void)flags;
    void *p = mmap(NULL, bytes + (2 << 20), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return -TERRACE_ENOMEM;
    *base = ((uint64_t)(uintptr_t)p + (2 << 20) - 1) & ~(uint64_t)((2 << 20) - 1);
    *base += ((struct simnode *)unit)->shift;
    return 0;
}

static void simnode_release(void *unit, uint64_t base, uint64_t bytes)
{
    munmap(simnode_at(unit, base), bytes);
}

static int simnode_commit(void *unit, uint64_t address, uint64_t bytes)
{
    struct simnode *n = unit;
    (void)address;
    simgates_check(n);
    pthread_mutex_lock(&n->lock);
    n->random = n->random * 1664525 + 1013904223;
    bool full = (n->room && n->committed + bytes > n->room) ||
                (n->refuse_one_in && (n->random >> 8) % n->refuse_one_in == 0);
    n->committed += full ? 0 : bytes;
    n->refused += full;
    pthread_mutex_unlock(&n->lock);
    return !full ? 0 : n->shift ? -TERRACE_EDEVMEM : -TERRACE_ENOMEM;
}

static void simnode_decommit(void *unit, uint64_t address, uint64_t bytes)
{
    struct simnode *n = unit;
    simgates_check(n);
    pthread_mutex_lock(&n->lock);
    uint64_t stolen = bytes < n->steals ? bytes : n->steals;
    n->committed -= bytes;
    n->room -= stolen;
    n->steals -= stolen;
    pthread_mutex_unlock(&n->lock);
    madvise(simnode_at(unit, address), bytes, MADV_DONTNEED);
}

static int simnode_available(void *unit, uint64_t *bytes)
{
    struct simnode *n = unit;
    pthread_mutex_lock(&n->lock);
    *bytes = n->room - n->committed;
    int r = n->room ? 0 : -TERRACE_ENOTSUP;
    pthread_mutex_unlock(&n->lock);
    return r;
}

static int simnode_submit(void *unit, terrace_io *const *list, unsigned n)
{
    struct simnode *d = unit;
    unsigned i;
    pthread_mutex_lock(&d->lock);
    for (i = 0; i < n && d->queued < SIMNODE_DEPTH; i++) {
        d->submitted += list[i]->op == TERRACE_IO_WRITE;
        d->queue[d->queued++] = list[i];
    }
    pthread_mutex_unlock(&d->lock);
    return (int)i;
}

/* The copy of bytes that change meanwhile is discarded by the core. */
__attribute__((noinline, no_sanitize("thread"))) static void simnode_copy(void *to, const void *from, size_t bytes)
{
    for (size_t i = 0; i < bytes / sizeof(uint64_t); i++)
        ((volatile uint64_t *)to)[i] = ((const volatile uint64_t *)from)[i];
}

static int simnode_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns)
{
    struct simnode *d = unit;
    unsigned n = 0;
    struct timespec until = simwait_until(timeout_ns);
    pthread_mutex_lock(&d->lock);
    while (!d->woken && (d->held || d->queued == 0) && simwait_sleep(&d->changed, &d->lock, timeout_ns, &until))
        ;
    d->woken = false;
    while (!d->held && d->queued && n < max) {
        terrace_io *io = d->queue[0];
        void *tier = simnode_at(d, io->address);
        bool peer = io->op == TERRACE_IO_PEER, into = io->op != TERRACE_IO_READ;
        const void *from = peer ? simnode_at(io->peer, io->peer_address) : into ? io->host : tier;
        simnode_copy(into ? tier : io->host, from, io->bytes);
        *(peer ? &d->peer_bytes : into ? &d->written_bytes : &d->read_bytes) += io->bytes;
        io->result = (peer ? d->peers_fail : d->fail && into) ? -TERRACE_EIO : 0;
        d->copied += into;
        done[n++] = io;
        memmove(d->queue, d->queue + 1, --d->queued * sizeof d->queue[0]);
    }
    pthread_mutex_unlock(&d->lock);
    return (int)n;
}

static void simnode_wake(void *unit)
{
    struct simnode *d = unit;
    pthread_mutex_lock(&d->lock);
    d->woken = true;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

static void simnode_explain(void *unit, const terrace_io *io, char *buf, size_t len)
{
    (void)unit;
    snprintf(buf, len, "copying %zu bytes of the simulated node", io->bytes);
}

/* Bytes this process asked the node to take in, and how many such requests it refuses. */
static atomic_size_t simnode_adopted;
static atomic_uint simnode_adopts_refused;

static int simnode_adopt(void *unit, uint64_t address, uint64_t bytes)
{
    (void)unit;
    (void)address;
    if (atomic_load(&simnode_adopts_refused)) {
        atomic_fetch_sub(&simnode_adopts_refused, 1);
        return -TERRACE_EBUSY;
    }
    atomic_fetch_add(&simnode_adopted, bytes);
    return 0;
}

/* ---- streams of the simulated device ------------------------------------- */

/* What is put into one lies there until the test, in the device's place, runs it:
 * work that changes memory, and waits for events. */
enum { SIMSTREAM_OPS = 4096 };
struct simstream_event;
struct simstream {
    bool known, capturing;
    unsigned put, done; /* of op */
    struct {
        void (*work)(void *);
        void *arg;
        struct simstream *other; /* waits until that has done so many */
        bool copies;             /* or so many are there */
        const struct simgate *gate; /* or that is open */
        unsigned until;
    } op[SIMSTREAM_OPS];
};
struct simstream_event {
    struct simstream *stream; /* NULL: the copies to the device */
    unsigned until;
};
static struct simstream simstream_default = {.known = true};
static pthread_mutex_t simstream_lock = PTHREAD_MUTEX_INITIALIZER;
static bool simdev_lost;
static unsigned simstream_events; /* that there are */

static unsigned simnode_count_of(const unsigned *counter)
{
    pthread_mutex_lock(&simdev.lock);
    unsigned n = *counter;
    pthread_mutex_unlock(&simdev.lock);
    return n;
}

static struct simstream *simstream_of(void *stream, int *error)
{
    struct simstream *s = stream ? stream : &simstream_default;
    *error = simdev_lost ? -TERRACE_EDEVICE : !s->known ? -TERRACE_EINVAL : s->capturing ? -TERRACE_EBUSY : 0;
    return s;
}

static int simstream_record(void *unit, void *stream, void **event)
{
    struct simstream_event *e = malloc(sizeof *e);
    int r;
    (void)unit;
    pthread_mutex_lock(&simstream_lock);
    struct simstream *s = simstream_of(stream == TERRACE_STREAM_COPIES ? NULL : stream, &r);
    *e = (struct simstream_event){s, s->put};
    if (stream == TERRACE_STREAM_COPIES)
        *e = (struct simstream_event){NULL, simnode_count_of(&simdev.submitted)};
    simstream_events += r == 0;
    pthread_mutex_unlock(&simstream_lock);
    if (r)
        free(e);
    else
        *event = e;
    return r;
}

/* Gates. A gate has been opened by the host, or by the device behind so many copies. */
enum { SIMGATES = 4096 };
static struct simgate {
    bool followed, open, behind;
    unsigned until;
} simgate[SIMGATES];
static unsigned simgates_made, simgates_kept; /* ever; that are not forgotten */
static bool simgates_none, simgates_refused; /* there are no more; streams cannot follow any */
static unsigned simgates_barred; /* calls that no stream may wait under, and one did */

static bool simgate_is_open(const struct simgate *g)
{
    return g->open || (g->behind && simnode_count_of(&simdev.copied) >= g->until);
}

/* Memory is about to change. */
static void simgates_check(const struct simnode *n)
{
    if (n != &simdev)
        return;
    pthread_mutex_lock(&simstream_lock);
    unsigned waiting = 0;
    for (unsigned i = 0; i < simgates_made && i < SIMGATES; i++)
        waiting += simgate[i].followed && !simgate_is_open(&simgate[i]);
    simgates_barred += waiting > 0;
    pthread_mutex_unlock(&simstream_lock);
}

static int simgate_make(void *unit, void **gate)
{
    (void)unit;
    pthread_mutex_lock(&simstream_lock);
    struct simgate *g = simgates_none ? NULL : &simgate[simgates_made++ % SIMGATES];
    if (g) {
        *g = (struct simgate){0};
        simgates_kept++;
        *gate = g;
    }
    pthread_mutex_unlock(&simstream_lock);
    return g ? 0 : -TERRACE_EAGAIN;
}

static int simgate_open(void *unit, void *gate, int how)
{
    struct simgate *g = gate;
    (void)unit;
    pthread_mutex_lock(&simstream_lock);
    int r = simdev_lost && how != TERRACE_GATE_NOW ? -TERRACE_EDEVICE : 0;
    if (how == TERRACE_GATE_NOW)
        g->open = true;
    else if (r == 0)
        g->until = simnode_count_of(&simdev.submitted);
    g->behind |= how != TERRACE_GATE_NOW && r == 0;
    pthread_mutex_unlock(&simstream_lock);
    return r;
}

static int simgate_follow(void *unit, void *stream, void *gate)
{
    struct simgate *g = gate;
    int r;
    (void)unit;
    pthread_mutex_lock(&simstream_lock);
    struct simstream *s = simstream_of(stream, &r);
    r = simgates_refused ? -TERRACE_EAGAIN : r;
    if (r == 0) {
        g->followed = true;
        memset(&s->op[s->put % SIMSTREAM_OPS], 0, sizeof s->op[0]);
        s->op[s->put++ % SIMSTREAM_OPS].gate = g;
    }
    pthread_mutex_unlock(&simstream_lock);
    return r;
}

static void simgate_forget(void *unit, void *gate)
{
    (void)unit;
    (void)gate;
    pthread_mutex_lock(&simstream_lock);
    simgates_kept--;
    pthread_mutex_unlock(&simstream_lock);
}

/* The device works through the stream; false: it stands before a wait. */
static bool simstream_run(struct simstream *s)
{
    bool goes = true;
    pthread_mutex_lock(&simstream_lock);
    while (goes && s->done < s->put) {
        unsigned i = s->done % SIMSTREAM_OPS;
        goes = s->op[i].gate   ? simgate_is_open(s->op[i].gate)
               : s->op[i].copies ? simnode_count_of(&simdev.copied) >= s->op[i].until
                                 : !s->op[i].other || s->op[i].other->done >= s->op[i].until;
        if (goes && s->op[i].work) {
            pthread_mutex_unlock(&simstream_lock);
            s->op[i].work(s->op[i].arg);
            pthread_mutex_lock(&simstream_lock);
        }
        s->done += goes;
    }
    pthread_mutex_unlock(&simstream_lock);
    return goes;
}

static int simstream_passed(void *unit, void *event)
{
    const struct simstream_event *e = event;
    (void)unit;
    if (e->stream == &simstream_default)
        simstream_run(e->stream); /* the device works through that by itself */
    pthread_mutex_lock(&simstream_lock);
    int r = simdev_lost ? -TERRACE_EDEVICE
                        : e->stream ? e->stream->done >= e->until
                                    : simnode_count_of(&simdev.copied) >= e->until;
    pthread_mutex_unlock(&simstream_lock);
    return r;
}

static int simstream_follow(void *unit, void *stream, void *event)
{
    const struct simstream_event *e = event;
    int r;
    (void)unit;
    pthread_mutex_lock(&simstream_lock);
    struct simstream *s = simstream_of(stream, &r);
    if (r == 0 && e) {
        s->op[s->put % SIMSTREAM_OPS].work = NULL;
        s->op[s->put % SIMSTREAM_OPS].gate = NULL;
        s->op[s->put % SIMSTREAM_OPS].other = e->stream;
        s->op[s->put % SIMSTREAM_OPS].copies = !e->stream;
        s->op[s->put++ % SIMSTREAM_OPS].until = e->until;
    }
    pthread_mutex_unlock(&simstream_lock);
    return r;
}

static void simstream_forget(void *unit, void *event)
{
    (void)unit;
    free(event);
    pthread_mutex_lock(&simstream_lock);
    simstream_events--;
    pthread_mutex_unlock(&simstream_lock);
}

/* Views: an address of the device stands for itself. */
static atomic_int simdev_views;

static int simdev_view(void *unit, uint64_t address, uint64_t bytes, unsigned flags, void **handle)
{
    (void)unit, (void)bytes, (void)flags;
    *handle = (void *)(uintptr_t)(address | 1ull << 61); /* nobody takes it for the address */
    atomic_fetch_add(&simdev_views, 1);
    return 0;
}

static void simdev_unview(void *unit, void *handle)
{
    (void)unit, (void)handle;
    atomic_fetch_sub(&simdev_views, 1);
}

static inline void simstream_launch(struct simstream *s, void (*work)(void *), void *arg)
{
    pthread_mutex_lock(&simstream_lock);
    s->op[s->put % SIMSTREAM_OPS].work = work;
    s->op[s->put % SIMSTREAM_OPS].other = NULL;
    s->op[s->put % SIMSTREAM_OPS].gate = NULL;
    s->op[s->put % SIMSTREAM_OPS].copies = false;
    s->op[s->put++ % SIMSTREAM_OPS].arg = arg;
    pthread_mutex_unlock(&simstream_lock);
}

static inline void simdev_lose(void)
{
    pthread_mutex_lock(&simstream_lock);
    simdev_lost = true;
    pthread_mutex_unlock(&simstream_lock);
}

static inline unsigned simgates_now(void)
{
    pthread_mutex_lock(&simstream_lock);
    unsigned n = simgates_kept;
    pthread_mutex_unlock(&simstream_lock);
    return n;
}

static inline unsigned simstream_events_now(void)
{
    pthread_mutex_lock(&simstream_lock);
    unsigned n = simstream_events;
    pthread_mutex_unlock(&simstream_lock);
    return n;
}

static const terrace_backend simnode_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "simnode",
    .tier_class = TERRACE_CLASS_HOST,
    .caps = TERRACE_CAP_CPU,
    .count = simnode_count,
    .open = simnode_open,
    .close = simnode_close,
    .reserve = simnode_reserve,
    .release = simnode_release,
    .commit = simnode_commit,
    .decommit = simnode_decommit,
    .submit = simnode_submit,
    .wait = simnode_wait,
    .wake = simnode_wake,
    .explain = simnode_explain,
    .adopt = simnode_adopt,
    .available = simnode_available,
};
static const terrace_backend simdev_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "simdev",
    .tier_class = TERRACE_CLASS_DEVICE,
    .count = simnode_count,
    .open = simdev_open,
    .close = simnode_close,
    .reserve = simnode_reserve,
    .release = simnode_release,
    .commit = simnode_commit,
    .decommit = simnode_decommit,
    .submit = simnode_submit,
    .wait = simnode_wait,
    .wake = simnode_wake,
    .explain = simnode_explain,
    .available = simnode_available,
    .record = simstream_record,
    .passed = simstream_passed,
    .follow = simstream_follow,
    .forget = simstream_forget,
    .view = simdev_view,
    .unview = simdev_unview,
    .gate = simgate_make,
    .gate_follow = simgate_follow,
    .gate_open = simgate_open,
    .gate_forget = simgate_forget,
};

static const terrace_backend simacc_backend = {
    .abi = TERRACE_BACKEND_ABI,
    .size = sizeof(terrace_backend),
    .name = "simacc",
    .tier_class = TERRACE_CLASS_DEVICE,
    .count = simnode_count,
    .open = simacc_open,
    .close = simnode_close,
    .reserve = simnode_reserve,
    .release = simnode_release,
    .commit = simnode_commit,
    .decommit = simnode_decommit,
    .submit = simnode_submit,
    .wait = simnode_wait,
    .wake = simnode_wake,
    .explain = simnode_explain,
    .available = simnode_available,
};

TERRACE_BACKEND_BUILTIN(simnode_backend);
TERRACE_BACKEND_BUILTIN(simdev_backend);
TERRACE_BACKEND_BUILTIN(simacc_backend);

static inline void simnode_hold(struct simnode *d, bool held)
{
    pthread_mutex_lock(&d->lock);
    d->held = held;
    pthread_cond_signal(&d->changed);
    pthread_mutex_unlock(&d->lock);
}

/* Leaves it so many bytes; 0: all. */
static inline void simnode_leave(struct simnode *d, uint64_t room)
{
    pthread_mutex_lock(&d->lock);
    d->room = room;
    pthread_mutex_unlock(&d->lock);
}

/* Has one in `n` commits fail, at random; 0: none. */
static inline void simnode_refuse(struct simnode *d, unsigned n)
{
    pthread_mutex_lock(&d->lock);
    d->refuse_one_in = n;
    pthread_mutex_unlock(&d->lock);
}

static inline unsigned simnode_refused(struct simnode *d)
{
    pthread_mutex_lock(&d->lock);
    unsigned n = d->refused;
    pthread_mutex_unlock(&d->lock);
    return n;
}

/* Waits until `n` copies lie in the queue of what is held; false after 5 s. */
static inline bool simnode_await_queued(struct simnode *d, unsigned n)
{
    for (int i = 0; i < 5000; i++) {
        pthread_mutex_lock(&d->lock);
        bool there = d->queued >= n;
        pthread_mutex_unlock(&d->lock);
        if (there)
            return true;
        usleep(1000);
    }
    return false;
}

#endif
