/* cuda_memory.c - device memory of the program that comes from terrace.
 *
 * From TERRACE_MIN_SIZE on a block is address-stable memory of the device's tier: its
 * granules go to host memory and come back, at points where nothing runs. The manager
 * is the process's, opened for the first block; where it cannot be opened, or has no
 * tier for a device, a line says why, and the program gets the driver's own memory.
 *
 * What the program gives back goes when nothing uses it any more: at once where
 * nothing runs, else after waiting for that, as the driver does; what is given back in
 * a stream's order when the stream has come so far. Until then the same stream can have
 * it again.
 *
 * Left to the driver: what is allocated while a stream is being captured, memory that
 * peers reach, and what libraries allocate to share it with other processes.
 *
 * May call: terrace.h, process.h, cuda_work.c, guard.c. */
#include <bsd/sys/tree.h>
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <time.h>

#include "cuda_hooks.h"
#include "small.h"

enum { DEVICES = 16 };
enum { TIER_UNKNOWN = -2, TIER_NONE = -1 };

struct held {
    union {
        RB_ENTRY(held) link;      /* by base */
        TAILQ_ENTRY(held) leaves; /* given back, in that order */
    };
    struct memory_range range;
    unsigned keeps, uses;
    cuda_stream stream; /* where it was given back in order, and */
    cuda_event event;   /* how far that has to come; NULL: until nothing runs */
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for both; terrace is not called under it */
static RB_HEAD(tree, held) tree = RB_INITIALIZER(&tree);
static TAILQ_HEAD(, held) leaving = TAILQ_HEAD_INITIALIZER(leaving);
atomic_size_t memory_count;
size_t memory_least = SIZE_MAX;

static enum { CLOSED, OPENING, OPEN, OFF } _Atomic state;
static terrace *manager;
static _Atomic terrace_tier tiers[DEVICES] = {[0 ... DEVICES - 1] = TIER_UNKNOWN};

static int compare(const struct held *a, const struct held *b)
{
    return (a->range.base > b->range.base) - (a->range.base < b->range.base);
}

#define UNUSED_STATIC __attribute__((unused)) static
RB_GENERATE_INTERNAL(tree, held, link, compare, UNUSED_STATIC)

/* The block that an address is in. */
static struct held *at_locked(cuda_address at)
{
    struct held key = {.range.base = at}, *h = RB_NFIND(tree, &tree, &key);
    if (!h || h->range.base != at)
        h = h ? RB_PREV(tree, &tree, h) : RB_MAX(tree, &tree);
    return h && at - h->range.base < h->range.bytes ? h : NULL;
}

/* ---- the manager --------------------------------------------------------------- */

/* The driver is of no use to a child, nor is what was its parent's. */
static void child_begins(void)
{
    if (state == CLOSED)
        return;
    state = OFF;
    memory_count = 0;
}

static void manager_open(void)
{
    pthread_atfork(NULL, NULL, child_begins);
    if (terrace_open(&manager, NULL) == 0) {
        state = OPEN;
        return;
    }
    say_untiered("device", terrace_last_error());
    state = OFF;
}

/* Inside a guard. */
static bool usable(void)
{
    int closed = CLOSED;
    if (state == CLOSED && atomic_compare_exchange_strong((_Atomic int *)&state, &closed, OPENING))
        manager_open();
    return state == OPEN;
}

/* The driver's device N is unit N of the kind; TIER_NONE: memory is the driver's there. */
static terrace_tier tier_of(int device)
{
    char name[24];
    terrace_tier tier;
    if (device < 0 || device >= DEVICES)
        return TIER_NONE;
    if (tiers[device] != TIER_UNKNOWN)
        return tiers[device];
    snprintf(name, sizeof name, "cuda:%d", device);
    if (terrace_tier_find(manager, name, &tier)) {
        note("memory of CUDA device %d is the driver's: %s", device, terrace_last_error());
        tier = TIER_NONE;
    }
    tiers[device] = tier;
    return tier;
}

terrace *memory_manager(int device, terrace_tier *tier)
{
    *tier = usable() ? tier_of(device) : TIER_NONE;
    return *tier >= 0 ? manager : NULL;
}

void memory_leave(int device)
{
    if (state == OFF || device < 0 || device >= DEVICES || tiers[device] == TIER_NONE)
        return;
    tiers[device] = TIER_NONE;
    note("memory of CUDA device %d is the driver's from now on: other devices are to reach it", device);
}

bool memory_has_tier(int device)
{
    return state == OPEN && device >= 0 && device < DEVICES && tiers[device] >= 0;
}

bool memory_excludes_peers(int device)
{
    bool found = false;
    struct held *h;
    pthread_mutex_lock(&lock);
    RB_FOREACH(h, tree, &tree)
        found |= h->range.device == device;
    pthread_mutex_unlock(&lock);
    return found;
}

/* ---- blocks ---------------------------------------------------------------------- */

/* Libraries for communication. */
bool memory_is_shared(const void *caller)
{
    Dl_info info;
    if (!dladdr(caller, &info) || !info.dli_fname)
        return false;
    const char *slash = strrchr(info.dli_fname, '/'), *name = slash ? slash + 1 : info.dli_fname;
    return strncmp(name, "libnccl", 7) == 0 || strncmp(name, "libnvshmem", 10) == 0;
}

/* All blocks there have ever been lie between these. */
static _Atomic cuda_address lowest = UINT64_MAX, highest;

static void widen(const struct memory_range *range)
{
    cuda_address low = lowest, high = highest, end = range->base + range->bytes;
    while (range->base < low && !atomic_compare_exchange_weak(&lowest, &low, range->base))
        ;
    while (end > high && !atomic_compare_exchange_weak(&highest, &high, end))
        ;
}

static void insert(struct held *h)
{
    widen(&h->range);
    pthread_mutex_lock(&lock);
    RB_INSERT(tree, &tree, h);
    pthread_mutex_unlock(&lock);
    memory_count++;
}

/* Inside a guard. NULL: the driver is to be asked. */
static struct held *held_new(size_t bytes, int device, cuda_context context)
{
    terrace_tier tier = usable() ? tier_of(device) : TIER_NONE;
    struct held *h = tier == TIER_NONE ? NULL : small_calloc(1, sizeof *h);
    if (!h)
        return NULL;
    void *p = terrace_malloc(manager, bytes, tier, NULL);
    if (!p) {
        note("%zu bytes on CUDA device %d are the driver's: %s", bytes, device, terrace_last_error());
        small_free(h);
        return NULL;
    }
    h->range = (struct memory_range){.base = (uintptr_t)p, .bytes = bytes, .device = device, .context = context};
    insert(h);
    return h;
}

/* Blocks that can be had without asking anybody. */
static bool is_candidate(size_t bytes, const void *caller)
{
    return bytes >= memory_least && bytes <= SIZE_MAX / 8 && state != OFF && !inside && !guard_is_library(caller) &&
           !work_is_captured() && !memory_is_shared(caller);
}

static bool make(size_t bytes, int device, cuda_context context, cuda_address *out)
{
    struct guard g;
    guard_enter(&g);
    const struct held *h = held_new(bytes, device, context);
    if (h)
        *out = h->range.base;
    guard_leave(&g);
    return h;
}

bool memory_new(size_t bytes, const void *caller, cuda_address *out)
{
    cuda_context context = NULL;
    int device;
    return out && is_candidate(bytes, caller) && driver.cuCtxGetDevice && !driver.cuCtxGetDevice(&device) &&
           !driver.cuCtxGetCurrent(&context) && make(bytes, device, context, out);
}

/* ---- giving back ------------------------------------------------------------------- */

/* Nobody uses it any more. */
static void held_free(struct held *h)
{
    struct guard g;
    guard_enter(&g);
    if (h->event)
        (void)driver.cuEventDestroy_v2(h->event);
    terrace_free(manager, (void *)(uintptr_t)h->range.base);
    small_free(h);
    memory_count--;
    guard_leave(&g);
}

static void leave(struct held *h)
{
    pthread_mutex_lock(&lock);
    TAILQ_INSERT_TAIL(&leaving, h, leaves);
    pthread_mutex_unlock(&lock);
}

static struct held *take(cuda_address at)
{
    struct held key = {.range.base = at};
    pthread_mutex_lock(&lock);
    struct held *h = RB_FIND(tree, &tree, &key);
    if (h)
        RB_REMOVE(tree, &tree, h);
    pthread_mutex_unlock(&lock);
    return h;
}

/* Something may still use it. */
static void give_back(struct held *h)
{
    if (work_stop()) {
        work_go_on();
        held_free(h);
    } else if (work_wait()) {
        held_free(h);
    } else {
        leave(h);
    }
}

bool memory_free(cuda_address at)
{
    struct held *h = memory_count && !inside ? take(at) : NULL;
    if (h)
        give_back(h);
    return h;
}

void memory_free_all(cuda_context context, int device)
{
    for (;;) {
        struct held *h;
        pthread_mutex_lock(&lock);
        RB_FOREACH(h, tree, &tree)
            if (context ? h->range.context == context : h->range.device == device)
                break;
        if (h)
            RB_REMOVE(tree, &tree, h);
        pthread_mutex_unlock(&lock);
        if (!h)
            return;
        give_back(h);
    }
}

/* ---- in a stream's order --------------------------------------------------------------- */

/* Marks how far the stream has come. False: that cannot be told. */
static bool mark(struct held *h, cuda_stream stream)
{
    h->stream = stream;
    h->event = NULL;
    if (!driver.cuEventRecord || !driver.cuEventQuery || !driver.cuEventDestroy_v2 ||
        driver.cuEventCreate(&h->event, CUDA_EVENT_WITHOUT_TIME))
        return false;
    if (driver.cuEventRecord(h->event, stream) == CUDA_OK)
        return true;
    (void)driver.cuEventDestroy_v2(h->event);
    h->event = NULL;
    return false;
}

static bool is_capturing(cuda_stream stream)
{
    cuda_capture status = 0;
    return work_is_captured() && driver.cuStreamIsCapturing &&
           (driver.cuStreamIsCapturing(stream, &status) || status);
}

bool memory_free_ordered(cuda_address at, cuda_stream stream)
{
    if (memory_count == 0 || inside || is_capturing(stream))
        return false;
    struct held *h = take(at);
    if (h) {
        (void)mark(h, stream);
        leave(h);
        (void)memory_settle();
    }
    return h;
}

/* The device that a stream works on. */
static bool device_of(cuda_stream stream, int *device, cuda_context *context)
{
    cuda_context current = NULL, popped;
    bool plain = stream == NULL || stream == CUDA_STREAM_LEGACY || stream == CUDA_STREAM_PER_THREAD;
    if (!driver.cuCtxGetDevice || driver.cuCtxGetCurrent(&current))
        return false;
    *context = current;
    if (!plain && (!driver.cuStreamGetCtx || driver.cuStreamGetCtx(stream, context)))
        return false;
    if (*context == current)
        return driver.cuCtxGetDevice(device) == CUDA_OK;
    if (driver.cuCtxPushCurrent_v2(*context))
        return false;
    cuda_result r = driver.cuCtxGetDevice(device);
    (void)driver.cuCtxPopCurrent_v2(&popped);
    return r == CUDA_OK;
}

/* One that was given back in the same stream, and is as large. */
static struct held *again(size_t bytes, cuda_stream stream, cuda_context context)
{
    struct held *h;
    pthread_mutex_lock(&lock);
    TAILQ_FOREACH(h, &leaving, leaves)
        if (h->event && h->stream == stream && h->range.context == context &&
            round_up(h->range.bytes, SLOT) == round_up(bytes, SLOT))
            break;
    if (h)
        TAILQ_REMOVE(&leaving, h, leaves);
    pthread_mutex_unlock(&lock);
    return h;
}

bool memory_new_ordered(size_t bytes, const void *caller, cuda_stream stream, cuda_address *out)
{
    int device;
    cuda_context context;
    if (!out || !is_candidate(bytes, caller) || !device_of(stream, &device, &context))
        return false;
    /* A thread's own default stream has the same handle as another thread's. */
    struct held *h = stream == CUDA_STREAM_PER_THREAD ? NULL : again(bytes, stream, context);
    if (!h)
        return make(bytes, device, context, out);
    (void)driver.cuEventDestroy_v2(h->event);
    h->event = NULL;
    h->keeps = 0;
    h->range.bytes = bytes;
    pthread_mutex_lock(&lock);
    RB_INSERT(tree, &tree, h);
    pthread_mutex_unlock(&lock);
    *out = h->range.base;
    return true;
}

/* ---- what is used --------------------------------------------------------------------- */

enum { USES_NS = 200000000 }; /* so often at most terrace is told */

void memory_use(cuda_address at)
{
    if (at < lowest || at >= highest)
        return;
    pthread_mutex_lock(&lock);
    struct held *h = at_locked(at);
    if (h)
        h->uses++;
    pthread_mutex_unlock(&lock);
}

struct used {
    struct memory_range range;
    unsigned uses;
};

static int by_uses(const void *a, const void *b)
{
    const struct used *x = a, *y = b;
    return (x->uses > y->uses) - (x->uses < y->uses);
}

/* Those that were used since this was last asked, which counts half from now on. */
static struct used *list_used(size_t *n)
{
    struct held *h;
    *n = 0;
    struct used *list = small_malloc(memory_count * sizeof *list);
    size_t most = list ? memory_count : 0;
    pthread_mutex_lock(&lock);
    RB_FOREACH(h, tree, &tree)
        if (h->uses && *n < most) {
            list[(*n)++] = (struct used){h->range, h->uses};
            h->uses /= 2;
        }
    pthread_mutex_unlock(&lock);
    return list;
}

static uint64_t clock_now(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000 + (uint64_t)now.tv_nsec;
}

/* What is used most is said last: it is the hottest. Now and then only, since what
 * comes and goes with each use costs as much as using it from afar. Inside a guard. */
static void tell_uses(void)
{
    static uint64_t told; /* with the gate shut */
    uint64_t now = clock_now();
    size_t n;
    if (now - told < USES_NS)
        return;
    told = now;
    struct used *list = list_used(&n);
    qsort(list, n, sizeof *list, by_uses);
    for (size_t i = 0; i < n; i++)
        (void)terrace_advise(manager, (void *)(uintptr_t)list[i].range.base, list[i].range.bytes,
                             TERRACE_ADVISE_WILLNEED, tier_of(list[i].range.device));
    small_free(list);
}

/* ---- where nothing runs ------------------------------------------------------------------ */

/* The first that left and may go; with `idle`, whatever it waited for. */
static struct held *next_to_go(bool idle)
{
    struct held *h;
    pthread_mutex_lock(&lock);
    TAILQ_FOREACH(h, &leaving, leaves)
        if (idle || (h->event && driver.cuEventQuery(h->event) == CUDA_OK))
            break;
    if (h)
        TAILQ_REMOVE(&leaving, h, leaves);
    pthread_mutex_unlock(&lock);
    return h;
}

static void move_all(void)
{
    struct guard g;
    guard_enter(&g);
    tell_uses();
    for (int i = 0; i < DEVICES; i++)
        if (tiers[i] >= 0 && terrace_safepoint(manager, tiers[i], TERRACE_HOST_SYNC))
            note("nothing moves on CUDA device %d: %s", i, terrace_last_error());
    guard_leave(&g);
}

bool memory_settle(void)
{
    struct held *h;
    if (memory_count == 0 || inside || work_is_captured() || state != OPEN)
        return false;
    while ((h = next_to_go(false)))
        held_free(h);
    if (!work_stop())
        return false;
    while ((h = next_to_go(true)))
        held_free(h);
    move_all();
    work_go_on();
    return true;
}

/* ---- what is said of a block ------------------------------------------------------------- */

bool memory_range(cuda_address at, struct memory_range *out)
{
    if (memory_count == 0 || inside)
        return false;
    pthread_mutex_lock(&lock);
    const struct held *h = at_locked(at);
    if (h)
        *out = h->range;
    pthread_mutex_unlock(&lock);
    return h;
}

/* How often a block is to be kept, of which it is told terrace when that begins or ends. */
static bool count_keep(cuda_address at, bool keep, struct memory_range *range)
{
    bool tell = false;
    pthread_mutex_lock(&lock);
    struct held *h = at_locked(at);
    if (h) {
        tell = keep ? h->keeps++ == 0 : h->keeps && --h->keeps == 0;
        *range = h->range;
    }
    pthread_mutex_unlock(&lock);
    return tell;
}

/* What is kept comes to its place where nothing runs. */
static void settle_now(void)
{
    if (!memory_settle() && work_wait())
        (void)memory_settle();
}

static bool advise_keep(cuda_address at, bool keep)
{
    struct memory_range range;
    struct guard g;
    if (!count_keep(at, keep, &range))
        return true;
    guard_enter(&g);
    int r = terrace_advise(manager, (void *)(uintptr_t)range.base, range.bytes,
                           keep ? TERRACE_ADVISE_PIN : TERRACE_ADVISE_UNPIN, tier_of(range.device));
    if (r)
        note("%zu bytes on CUDA device %d may move: %s", range.bytes, range.device, terrace_last_error());
    guard_leave(&g);
    if (r && keep)
        (void)count_keep(at, false, &range);
    return r == 0;
}

bool memory_keep(cuda_address at, bool keep)
{
    bool kept = advise_keep(at, keep);
    if (kept && keep)
        settle_now();
    return kept;
}

/* The next block of a device from an address on. */
static bool next_of(int device, cuda_address from, cuda_address *at)
{
    struct held key = {.range.base = from};
    pthread_mutex_lock(&lock);
    struct held *h = RB_NFIND(tree, &tree, &key);
    while (h && h->range.device != device)
        h = RB_NEXT(tree, &tree, h);
    if (h)
        *at = h->range.base;
    pthread_mutex_unlock(&lock);
    return h;
}

void memory_keep_all(int device)
{
    bool any = false;
    for (cuda_address at = 0; memory_count && !inside && next_of(device, at, &at); at++)
        any |= advise_keep(at, true);
    if (any)
        settle_now();
}
