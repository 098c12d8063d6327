/* test_random.c - random operations by several threads against plain memory.
 *
 * Every slot has a tensor and, in plain memory, the bytes it must have. The
 * slot's lock gives the order that terrace leaves to the caller: one writer or
 * many readers; a list takes its locks in order. A thread that keeps a tensor
 * acquired from one operation to the next only tries locks and never asks to
 * WAIT, so that nobody can wait in a circle.
 *
 * Another program may include this file with RANDOM_DEVICE defined, and a seen() of
 * its own: then it has no tests but those of that program.
 *
 * TERRACE_TEST_SEED repeats a run as far as threads can be repeated;
 * TERRACE_TEST_SCALE is the per cent of operations to do. */
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

#include "manager.h"
#include "simdisk.h"
#include "simnode.h"

enum { THREADS = 4, SLOTS = 2000, HOT = 120, LIST = 4, WINDOW = 512, MOST = 1 * MIB };

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
enum { SLOWER = 10 };
#else
enum { SLOWER = 1 };
#endif

/* Bytes that nobody checks may change while they are written down: what
 * reaches the disk is then discarded. Only reading them for that is excused. */
__attribute__((visibility("default"))) const char *__tsan_default_suppressions(void);
const char *__tsan_default_suppressions(void)
{
    return "race:^simdisk_store$\nrace:pwrite\nrace:^move_bytes$\n";
}

struct slot {
    pthread_rwlock_t lock; /* whoever uses the tensor; for writing: changes anything here */
    terrace_tensor *tensor;
    size_t bytes;
    unsigned char *oracle;
};

static struct world {
    terrace *m;
    terrace_tier host, disk;
    unsigned nodes; /* memory tiers, the first ones */
    struct slot slot[SLOTS];
    bool faults; /* transfers may fail */
    bool refusals; /* memory may not be had */
    atomic_bool stop;
    char failure[1024];
    atomic_ullong done, missed; /* operations; those that were refused for want of room */
} w;

struct worker {
    pthread_t thread;
    uint64_t random;
    unsigned long operations;
    struct slot *kept; /* acquired by the last operations, for reading */
    void *kept_at;
};

/* ---- helpers ----------------------------------------------------------- */

static uint64_t draw(struct worker *k, uint64_t below)
{
    k->random ^= k->random << 13;
    k->random ^= k->random >> 7;
    k->random ^= k->random << 17;
    return (k->random >> 16) % below;
}

/* The first failure stops all threads; the main thread reports it. */
__attribute__((format(printf, 1, 2))) static bool fail(const char *format, ...)
{
    static atomic_flag first = ATOMIC_FLAG_INIT;
    if (!atomic_flag_test_and_set(&first)) {
        va_list args;
        va_start(args, format);
        vsnprintf(w.failure, sizeof w.failure, format, args);
        va_end(args);
    }
    w.stop = true;
    return false;
}

static bool is_fault(int r)
{
    if (w.refusals && (r == -TERRACE_ENOMEM || r == -TERRACE_EDEVMEM || r == -TERRACE_EBUDGET))
        return true;
    return w.faults && (r == -TERRACE_EIO || r == -TERRACE_ENOSPC);
}

/* 0, or a failure that is allowed; all else ends the test. */
static bool allowed(int r, const char *what, const struct slot *s, int besides)
{
    if (r == 0)
        return true;
    if (r != -besides && !is_fault(r))
        return fail("%s of %zu bytes: %s: %s", what, s->bytes, terrace_strerror(r), terrace_last_error());
    w.missed++;
    return false;
}

static size_t random_size(struct worker *k)
{
    unsigned kind = (unsigned)draw(k, 100);
    size_t most = kind < 60 ? 4096 : kind < 90 ? 64 * KIB : kind < 99 ? 256 * KIB : MOST;
    size_t bytes = 1 + draw(k, most);
    return draw(k, 8) ? bytes : (bytes + 4095) & ~(size_t)4095;
}

/* The class, or one of its tiers where there are several. */
static terrace_tier random_host(struct worker *k)
{
    unsigned node = w.nodes > 1 ? (unsigned)draw(k, w.nodes + 1) : w.nodes;
    return node < w.nodes ? (terrace_tier)node : w.host;
}

static struct slot *random_slot(struct worker *k)
{
    return &w.slot[draw(k, draw(k, 10) < 7 ? HOT : SLOTS)];
}

/* False where a thread that keeps something would have to wait. */
static bool slot_lock(const struct worker *k, struct slot *s, bool write)
{
    if (k->kept && s == k->kept)
        return false;
    if (k->kept)
        return (write ? pthread_rwlock_trywrlock(&s->lock) : pthread_rwlock_tryrdlock(&s->lock)) == 0;
    return (write ? pthread_rwlock_wrlock(&s->lock) : pthread_rwlock_rdlock(&s->lock)) == 0;
}

static void slot_unlock(struct slot *s)
{
    pthread_rwlock_unlock(&s->lock);
}

#ifndef RANDOM_DEVICE
/* Where the CPU finds what lies at an address of whichever tier. */
static void *seen(void *at)
{
    return (uintptr_t)at & simdev.shift ? simnode_at(&simdev, (uintptr_t)at) : at;
}
#endif

static bool same(const struct slot *s, void *at, size_t from, size_t bytes)
{
    const unsigned char *p = seen(at);
    if (memcmp(p + from, s->oracle + from, bytes) == 0)
        return true;
    while (p[from] == s->oracle[from])
        from++;
    return fail("byte %zu of %zu is %02x and should be %02x", from, s->bytes, p[from], s->oracle[from]);
}

/* Both ends and a window, now and then everything. */
static bool verify(struct worker *k, const struct slot *s, void *at)
{
    if (draw(k, 32) == 0)
        return same(s, at, 0, s->bytes);
    size_t from = draw(k, s->bytes), bytes = s->bytes - from < WINDOW ? s->bytes - from : WINDOW;
    return same(s, at, from, bytes) && same(s, at, 0, 1) && same(s, at, s->bytes - 1, 1);
}

static void scribble(struct worker *k, struct slot *s, void *at, size_t from, size_t bytes)
{
    size_t i = from;
    for (; i + 8 <= from + bytes; i += 8) {
        k->random = k->random * 6364136223846793005u + 1442695040888963407u;
        memcpy(s->oracle + i, &k->random, 8);
    }
    for (; i < from + bytes; i++)
        s->oracle[i] = (unsigned char)draw(k, 256);
    memcpy((char *)seen(at) + from, s->oracle + from, bytes);
}

/* What a holder does with the bytes, by mode. */
static bool use(struct worker *k, struct slot *s, void *at, unsigned mode)
{
    if (mode & TERRACE_OVERWRITE) {
        scribble(k, s, at, 0, s->bytes);
        return true;
    }
    if (!verify(k, s, at))
        return false;
    if (mode & TERRACE_WRITE) {
        size_t from = draw(k, s->bytes), bytes = s->bytes - from < WINDOW ? s->bytes - from : WINDOW;
        scribble(k, s, at, from, bytes);
    }
    return true;
}

static bool slot_fill(struct worker *k, struct slot *s)
{
    terrace_tensor_attr attr = {.size = sizeof attr, .label = draw(k, 2) ? "random" : NULL,
                                .alignment = (size_t)1 << draw(k, 14)};
    s->bytes = random_size(k);
    s->oracle = calloc(1, s->bytes);
    int r = terrace_tensor_create(w.m, s->bytes, &attr, &s->tensor);
    return allowed(r, "create", s, 0);
}

static void slot_empty(struct slot *s)
{
    terrace_tensor_destroy(s->tensor);
    free(s->oracle);
    s->tensor = NULL;
    s->oracle = NULL;
}

/* ---- operations -------------------------------------------------------- */

static unsigned random_mode(struct worker *k)
{
    unsigned kind = (unsigned)draw(k, 8);
    return kind < 4 ? TERRACE_READ : kind < 5 ? TERRACE_WRITE : kind < 6 ? TERRACE_WRITE | TERRACE_READ
         : kind < 7 ? TERRACE_OVERWRITE : TERRACE_READ;
}

static bool changes(unsigned mode)
{
    return mode & (TERRACE_WRITE | TERRACE_OVERWRITE);
}

static unsigned random_wait(struct worker *k)
{
    return !k->kept && draw(k, 2) ? TERRACE_WAIT : 0;
}

static void op_use(struct worker *k)
{
    struct slot *s = random_slot(k);
    unsigned mode = random_mode(k), wait = random_wait(k);
    void *at;
    if (!slot_lock(k, s, changes(mode)))
        return;
    int r = terrace_acquire(s->tensor, random_host(k), mode | wait, TERRACE_HOST_SYNC, &at, NULL);
    if (allowed(r, "acquire", s, wait ? 0 : TERRACE_EBUDGET) && use(k, s, at, mode))
        allowed(terrace_release(s->tensor, at, TERRACE_HOST_SYNC), "release", s, 0);
    slot_unlock(s);
}

static void op_nowait(struct worker *k)
{
    struct slot *s = random_slot(k);
    unsigned mode = random_mode(k);
    void *at;
    if (!slot_lock(k, s, changes(mode)))
        return;
    int r = -TERRACE_EAGAIN;
    for (int tries = 0; tries < 3 && r == -TERRACE_EAGAIN; tries++)
        r = terrace_acquire(s->tensor, random_host(k), mode | TERRACE_NOWAIT, TERRACE_HOST_SYNC, &at, NULL);
    if (r != -TERRACE_EAGAIN && allowed(r, "acquire without waiting", s, TERRACE_EBUDGET) &&
        use(k, s, at, mode))
        allowed(terrace_release(s->tensor, at, TERRACE_HOST_SYNC), "release", s, 0);
    slot_unlock(s);
}

static int slot_compare(const void *a, const void *b)
{
    const struct slot *const *x = a, *const *y = b;
    return (*x > *y) - (*x < *y);
}

static void op_list(struct worker *k)
{
    struct slot *s[LIST];
    terrace_access list[LIST];
    size_t n = 1 + draw(k, LIST), locked = 0, distinct = 0;
    unsigned wait = random_wait(k), late = !wait && draw(k, 4) == 0 ? TERRACE_NOWAIT : 0;
    for (size_t i = 0; i < n; i++)
        s[i] = random_slot(k);
    qsort(s, n, sizeof s[0], slot_compare);
    for (size_t i = 0; i < n; i++)
        if (!i || s[i] != s[distinct - 1])
            s[distinct++] = s[i];
    for (size_t i = 0; i < distinct; i++) {
        list[i] = (terrace_access){.size = sizeof list[i], .tier = random_host(k), .mode = random_mode(k)};
        if (!slot_lock(k, s[i], changes(list[i].mode)))
            break;
        list[i].tensor = s[i]->tensor;
        list[i].mode |= wait | late;
        locked++;
    }
    int r = locked == distinct ? terrace_acquire_all(list, distinct, TERRACE_HOST_SYNC) : -TERRACE_EAGAIN;
    bool refused = r == -TERRACE_EAGAIN && (late || locked < distinct);
    if (!refused && allowed(r, "acquire_all", s[0], wait ? 0 : TERRACE_EBUDGET))
        for (size_t i = distinct; i-- > 0;)
            if (use(k, s[i], list[i].address, list[i].mode))
                allowed(terrace_release(s[i]->tensor, list[i].address, TERRACE_HOST_SYNC), "release", s[i], 0);
    while (locked)
        slot_unlock(s[--locked]);
}

static void op_hint(struct worker *k)
{
    struct slot *s = random_slot(k);
    unsigned kind = (unsigned)draw(k, 16);
    if (!slot_lock(k, s, false))
        return;
    if (kind < 9)
        allowed(terrace_prefetch(s->tensor, random_host(k)), "prefetch", s, 0);
    else if (kind < 14)
        allowed(terrace_demote(s->tensor, draw(k, 4) ? w.disk : random_host(k)), "demote", s, 0);
    else
        allowed(terrace_wait(s->tensor), "wait", s, 0);
    slot_unlock(s);
}

static void op_replace(struct worker *k)
{
    struct slot *s = random_slot(k);
    void *at;
    if (!slot_lock(k, s, true))
        return;
    bool held = draw(k, 4) == 0 &&
                allowed(terrace_acquire(s->tensor, random_host(k), TERRACE_READ, TERRACE_HOST_SYNC, &at, NULL), "acquire", s,
                        TERRACE_EBUDGET);
    terrace_tensor *old = s->tensor;
    if (held) { /* its bytes live until the release */
        terrace_tensor_destroy(old);
        verify(k, s, at);
        allowed(terrace_release(old, at, TERRACE_HOST_SYNC), "release", s, 0);
        s->tensor = NULL;
    }
    slot_empty(s);
    slot_fill(k, s);
    slot_unlock(s);
}

/* Keeps a tensor acquired over the next operations, or lets it go. */
static void op_keep(struct worker *k)
{
    struct slot *s = k->kept;
    if (s) {
        if (verify(k, s, k->kept_at))
            allowed(terrace_release(s->tensor, k->kept_at, TERRACE_HOST_SYNC), "release", s, 0);
        k->kept = NULL;
        slot_unlock(s);
        return;
    }
    s = random_slot(k);
    if (!slot_lock(k, s, false))
        return;
    int r = terrace_acquire(s->tensor, random_host(k), TERRACE_READ, TERRACE_HOST_SYNC, &k->kept_at, NULL);
    if (allowed(r, "acquire", s, TERRACE_EBUDGET))
        k->kept = s;
    else
        slot_unlock(s);
}

static void *work(void *arg)
{
    struct worker *k = arg;
    for (unsigned long i = 0; i < k->operations && !w.stop; i++) {
        unsigned kind = (unsigned)draw(k, 100);
        if (w.faults && draw(k, 200) == 0)
            simdisk_fault(draw(k, 2) ? &simdisk.fail_read : &simdisk.fail_write, 1 + (int)draw(k, 4));
        if (kind < 60)
            op_use(k);
        else if (kind < 66)
            op_nowait(k);
        else if (kind < 76)
            op_list(k);
        else if (kind < 92)
            op_hint(k);
        else if (kind < 95)
            op_replace(k);
        else if (kind < 99)
            op_keep(k);
        else
            terrace_step(w.m);
        w.done++;
    }
    if (k->kept)
        op_keep(k);
    return NULL;
}

/* ---- running ----------------------------------------------------------- */

static unsigned long setting(const char *name, unsigned long otherwise)
{
    const char *text = getenv(name);
    return text ? strtoul(text, NULL, 0) : otherwise;
}

static void expect_all(struct worker *k)
{
    for (size_t i = 0; i < SLOTS && !w.stop; i++) {
        struct slot *s = &w.slot[i];
        void *at;
        terrace_wait(s->tensor); /* what failed before */
        int r = terrace_acquire(s->tensor, w.host, TERRACE_READ, TERRACE_HOST_SYNC, &at, NULL);
        if (allowed(r, "last acquire", s, 0) && same(s, at, 0, s->bytes))
            allowed(terrace_release(s->tensor, at, TERRACE_HOST_SYNC), "release", s, 0);
        if (draw(k, 2))
            slot_empty(s); /* the others are left to terrace_close() */
    }
}

static void run(const char *tiers, const char *conf, unsigned long operations)
{
    unsigned long seed = setting("TERRACE_TEST_SEED", (unsigned long)time(NULL));
    struct worker k[THREADS + 1] = {{0}}, *self = &k[THREADS];
    uint64_t bytes = 0;
    operations = operations * setting("TERRACE_TEST_SCALE", 100) / 100 / SLOWER;
    fprintf(stderr, "TERRACE_TEST_SEED=%lu (%s, %s, %lu operations)\n", seed, tiers, conf, operations);
    for (int i = 0; i <= THREADS; i++)
        k[i] = (struct worker){.random = (seed + 1) * 0x9e3779b97f4a7c15u + (uint64_t)i * 77,
                               .operations = operations / THREADS};
    for (size_t i = 0; i < SLOTS; i++)
        bytes += w.slot[i].bytes = random_size(self);
    char nodes[200];
    snprintf(nodes, sizeof nodes, "%s;limit_simnode=%llu;limit_simdev=%llu;limit_cuda=%llu", conf,
             (unsigned long long)bytes / 10, (unsigned long long)bytes / 20, (unsigned long long)bytes / 20);
    w.m = open_with(tiers, bytes / 10, nodes);
    if (w.refusals) {
        simnode_leave(&simnode, bytes / 20);
        simnode_leave(&simdev, bytes / 40);
        simnode_refuse(&simnode, 4);
        simnode_refuse(&simdev, 4);
    }
    w.nodes = 1 + (strstr(tiers, "simnode") != NULL) + (strstr(tiers, "simdev") != NULL) +
              (strstr(tiers, "cuda") != NULL);
    w.host = host_of(w.m);
    w.disk = disk_of(w.m);
    for (size_t i = 0; i < SLOTS; i++) {
        pthread_rwlock_init(&w.slot[i].lock, NULL);
        slot_fill(self, &w.slot[i]);
    }
    for (int i = 0; i < THREADS; i++)
        cr_assert(pthread_create(&k[i].thread, NULL, work, &k[i]) == 0);
    for (int i = 0; i < THREADS; i++)
        pthread_join(k[i].thread, NULL);
    bool refusals = w.refusals;
    w.faults = w.refusals = false;
    simnode_refuse(&simnode, 0);
    simnode_refuse(&simdev, 0);
    pthread_mutex_lock(&simdisk.lock);
    simdisk.blocks = 0;
    pthread_mutex_unlock(&simdisk.lock);
    simdisk_fault(&simdisk.fail_read, 0);
    simdisk_fault(&simdisk.fail_write, 0);
    for (unsigned i = 0; i < w.nodes; i++) {
        terrace_tier_statistics host = tier_stats_of(w.m, (terrace_tier)i);
        cr_expect_leq(host.peak, host.limit);
        cr_expect_eq(host.pinned, 0);
    }
    terrace_statistics s = stats_of(w.m);
    cr_expect(s.evictions > 0 && s.fill_bytes > 0 && s.writeback_bytes > 0);
    if (refusals) /* something else serves, or leaves */
        cr_expect_lt(w.missed, w.done / 20);
    expect_all(self);
    cr_assert(!w.stop, "seed %lu: %s", seed, w.failure);
    fprintf(stderr, "%llu done, %llu refused, %u commits refused, %llu evictions, %llu prefetches, %llu errors\n", w.done,
            w.missed, simnode_refused(&simnode) + simnode_refused(&simdev),
            (unsigned long long)s.evictions, (unsigned long long)s.prefetches, (unsigned long long)s.io_errors);
    terrace_close(w.m);
    for (size_t i = 0; i < SLOTS; i++)
        free(w.slot[i].oracle);
}

#ifndef RANDOM_DEVICE
#define SIM "numa:0,simdisk:0"
#define NODES "numa:0,simnode:0,simdisk:0"
#define DEVICE "simdev:0,numa:0,simdisk:0"
#define EVERY "simdev:0,numa:0,simnode:0,simdisk:0"
#define DISK "numa:0,nvme:0"

Test(random, simulated, .timeout = 240) { run(SIM, "log=error", 800000); }
Test(random, simulated_lru, .timeout = 240) { run(SIM, "log=error;policy=lru;prefetch=1M", 300000); }
Test(random, simulated_verified, .timeout = 240) { run(SIM, "log=error;verify=spill", 300000); }
Test(random, simulated_encrypted, .timeout = 240) { run(SIM, "log=error;encrypt=1", 300000); }

Test(random, simulated_striped, .timeout = 240)
{
    simdisk.boundary = 2 * SIMDISK_CHUNK;
    run(SIM, "log=error;verify=all", 150000);
}

Test(random, nodes, .timeout = 240) { run(NODES, "log=error", 300000); }
Test(random, nodes_lru, .timeout = 240) { run(NODES, "log=error;policy=lru;prefetch=1M", 150000); }
Test(random, nodes_verified, .timeout = 240) { run(NODES, "log=error;verify=spill", 150000); }
Test(random, nodes_encrypted, .timeout = 240) { run(NODES, "log=error;encrypt=1", 150000); }

Test(random, nodes_with_failures, .timeout = 240)
{
    w.faults = true;
    run(NODES, "log=off", 150000);
}

/* There is half the memory that the budgets count on, and any commit may fail. */
Test(random, nodes_without_memory, .timeout = 240)
{
    w.refusals = true;
    run(EVERY, "log=off", 150000);
}

Test(random, nodes_nearly_full, .timeout = 240)
{
    w.faults = true;
    simdisk.blocks = 40 * MIB;
    run(NODES, "log=off", 40000);
}

Test(random, device, .timeout = 240) { run(DEVICE, "log=error", 150000); }
Test(random, device_and_nodes, .timeout = 240) { run(EVERY, "log=error", 150000); }
Test(random, device_encrypted, .timeout = 240) { run(DEVICE, "log=error;encrypt=1", 60000); }

Test(random, device_with_failures, .timeout = 240)
{
    w.faults = true;
    run(EVERY, "log=off", 100000);
}

Test(random, simulated_with_failures, .timeout = 240)
{
    w.faults = true;
    run(SIM, "log=off", 300000);
}

Test(random, simulated_nearly_full, .timeout = 240)
{
    w.faults = true;
    simdisk.blocks = 48 * MIB;
    run(SIM, "log=off", 60000);
}

Test(random, uring, .timeout = 240) { run(DISK, "log=error;io=uring", 60000); }
Test(random, uring_verified, .timeout = 240) { run(DISK, "log=error;io=uring;verify=all", 30000); }
Test(random, uring_encrypted, .timeout = 240) { run(DISK, "log=error;io=uring;encrypt=1", 30000); }
Test(random, threads, .timeout = 240) { run(DISK, "log=error;io=threads", 60000); }
Test(random, threads_verified, .timeout = 240) { run(DISK, "log=error;io=threads;verify=all", 30000); }
Test(random, threads_encrypted, .timeout = 240) { run(DISK, "log=error;io=threads;encrypt=1", 30000); }
#endif
