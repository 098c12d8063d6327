/* cnrt.c - the tier of Cambricon's MLU devices, through CNRT.
 *
 * What differs from CUDA's shape: a copy is told the queue before the direction, and
 * directions have numbers of their own; a notifier stands for an event, and a queue that
 * waits for one is named after it. There is no function that registers host memory:
 * copies work on ordinary memory, and submit may wait for them. The default queue is one
 * of each thread's own.
 *
 * Source: cnrt.h of CNRT 6.14.1 and of an earlier 6, Cambricon's guide to CNRT, the
 * calls of flagos-ai/FlagCX (mlu_adaptor.cc) and of Cambricon's torch_mlu. Names are
 * those since CNRT 5.
 *
 * May call: runtime.h, libc. */
#include <stdio.h>
#include <string.h>

#include "runtime.h"

typedef int cnrt_code;

enum { /* cnrtMemTransDir_t and others */
    CNRT_HOST_TO_DEVICE = 0,
    CNRT_DEVICE_TO_DEVICE = 1,
    CNRT_DEVICE_TO_HOST = 2,
    CNRT_NOTIFIER_DISABLE_TIMING_ALL = 4,
    CNRT_NOT_READY = 1,
    CNRT_BUSY = 632014, /* the same, in earlier versions */
    CNRT_NOT_SUPPORTED = 100050,
    CNRT_CAPTURE_FIRST = 100360,
    CNRT_CAPTURE_LAST = 100366
};

/* REQUIRED or OPTIONAL(member, name without the prefix, result, parameters). */
#define CNRT_FUNCTIONS(REQUIRED, OPTIONAL)                                                 \
    REQUIRED(device_count, GetDeviceCount, cnrt_code, (unsigned *))                        \
    REQUIRED(device_set, SetDevice, cnrt_code, (int))                                      \
    REQUIRED(device_get, GetDevice, cnrt_code, (int *))                                    \
    REQUIRED(memory_info, MemGetInfo, cnrt_code, (size_t *, size_t *))                     \
    REQUIRED(allocate, Malloc, cnrt_code, (void **, size_t))                               \
    REQUIRED(release, Free, cnrt_code, (void *))                                           \
    OPTIONAL(copy, MemcpyAsync_V3, cnrt_code, (void *, void *, size_t, void *, int))       \
    REQUIRED(fill, MemsetAsync, cnrt_code, (void *, int, size_t, void *))                  \
    REQUIRED(queue_create, QueueCreate, cnrt_code, (void **))                              \
    REQUIRED(queue_destroy, QueueDestroy, cnrt_code, (void *))                             \
    REQUIRED(queue_sync, QueueSync, cnrt_code, (void *))                                   \
    REQUIRED(queue_query, QueueQuery, cnrt_code, (void *))                                 \
    REQUIRED(queue_wait, QueueWaitNotifier, cnrt_code, (void *, void *, unsigned))         \
    REQUIRED(notifier_create, NotifierCreateWithFlags, cnrt_code, (void **, unsigned))     \
    REQUIRED(notifier_destroy, NotifierDestroy, cnrt_code, (void *))                       \
    REQUIRED(notifier_place, PlaceNotifier, cnrt_code, (void *, void *))                   \
    REQUIRED(notifier_query, QueryNotifier, cnrt_code, (void *))                           \
    OPTIONAL(peer_can, GetPeerAccessibility, cnrt_code, (unsigned *, int, int))            \
    OPTIONAL(peer_copy, MemcpyPeerAsync, cnrt_code, (void *, int, void *, int, size_t, void *)) \
    OPTIONAL(properties, GetDeviceProperties_V3, cnrt_code, (void *, int))                 \
    OPTIONAL(last_error, GetLastError, cnrt_code, (void))                                  \
    OPTIONAL(error_name, GetErrorName, const char *, (cnrt_code))                          \
    OPTIONAL(error_text, GetErrorStr, const char *, (cnrt_code))

static struct {
#define MEMBER(member, name, result, parameters) result(*member) parameters;
    CNRT_FUNCTIONS(MEMBER, MEMBER)
#undef MEMBER
} f; /* not called until all that is required was found */

/* ---- loading and errors -------------------------------------------------- */

/* The second form of the copy has the third's arguments. */
static void find(struct runtime *rt, void *library)
{
#define REQUIRED(member, name, result, parameters) runtime_symbol(rt, library, "cnrt", #name, true, &f.member);
#define OPTIONAL(member, name, result, parameters) runtime_symbol(rt, library, "cnrt", #name, false, &f.member);
    CNRT_FUNCTIONS(REQUIRED, OPTIONAL)
#undef REQUIRED
#undef OPTIONAL
    if (!f.copy)
        runtime_symbol(rt, library, "cnrt", "MemcpyAsync_V2", true, &f.copy);
    rt->peers = f.peer_can && f.peer_copy;
}

static int error(const struct runtime *rt, int code)
{
    (void)rt;
    if (code >= CNRT_CAPTURE_FIRST && code <= CNRT_CAPTURE_LAST)
        return -TERRACE_EBUSY;
    switch (code) {
    case 0: return 0;
    case CNRT_NOT_READY:
    case CNRT_BUSY: return -TERRACE_EAGAIN;
    case 100004: /* cnrtErrorNoDevice */
    case 100005: /* cnrtErrorDeviceInvalid */ return -TERRACE_ENOENT;
    case 100006: /* cnrtErrorArgsInvalid */
    case 100014: /* cnrtErrorInvalidResourceHandle */
    case 632006: /* cnrtErrorDevice: the resource is another device's */
    case 632013: /* cnrtErrorMemcpyDirectionInvalid */ return -TERRACE_EINVAL;
    case 100007: /* cnrtErrorSys */ return -TERRACE_ESYSTEM;
    case 100010: /* cnrtErrorSysNoMem */ return -TERRACE_ENOMEM;
    case CNRT_NOT_SUPPORTED: return -TERRACE_ENOTSUP;
    case 100051: /* cnrtErrorOpsNotPermitted */ return -TERRACE_EPERM;
    case 100100: /* cnrtErrorNoMem */ return -TERRACE_EDEVMEM;
    default: return -TERRACE_EDEVICE; /* most others end the device's use */
    }
}

static void text(const struct runtime *rt, int code, char *buf, size_t len)
{
    const char *name = f.error_name ? f.error_name(code) : NULL;
    const char *words = f.error_text ? f.error_text(code) : NULL;
    (void)rt;
    snprintf(buf, len, "%s (%d)%s%s", name ? name : "CNRT error", code, words ? ": " : "", words ? words : "");
}

/* What a call came to; the thread does not keep it. */
static int came_to(int code)
{
    if (code && f.last_error)
        (void)f.last_error();
    return code;
}

static int start(struct runtime *rt, int *devices)
{
    unsigned n = 0;
    int code = came_to(f.device_count(&n));
    (void)rt;
    *devices = (int)n;
    return code;
}

/* ---- devices ------------------------------------------------------------- */

static void restore(int device)
{
    if (came_to(f.device_set(device)))
        (void)came_to(f.device_set(device));
}

static int enter(struct runtime *rt, int device, struct runtime_scope *scope)
{
    int code = came_to(f.device_get(&scope->device));
    (void)rt;
    if (code)
        return code;
    scope->device_set = scope->device != device;
    code = scope->device_set ? came_to(f.device_set(device)) : 0;
    if (code && scope->device_set)
        restore(scope->device);
    return code;
}

static void leave(struct runtime *rt, const struct runtime_scope *scope)
{
    (void)rt;
    if (scope->device_set)
        restore(scope->device);
}

/* The name stands first in the properties; the rest is not looked at. */
static int describe(struct runtime *rt, int device, char *model, size_t model_len, char *bus, size_t bus_len)
{
    char properties[16384] = ""; /* larger than any that is known */
    int code = f.properties ? came_to(f.properties(properties, device)) : 0;
    (void)bus_len;
    *bus = '\0';
    if (code && error(rt, code) != -TERRACE_ENOTSUP)
        return code;
    snprintf(model, model_len, "%.79s", *properties ? properties : "MLU");
    return 0;
}

static int memory_info(struct runtime *rt, size_t *unused, size_t *all)
{
    (void)rt;
    return came_to(f.memory_info(unused, all));
}

/* ---- memory and copies --------------------------------------------------- */

static int allocate(struct runtime *rt, void **p, size_t bytes)
{
    (void)rt;
    return came_to(f.allocate(p, bytes));
}

static int release(struct runtime *rt, void *p)
{
    (void)rt;
    return came_to(f.release(p));
}

static int copy(struct runtime *rt, void *to, const void *from, size_t bytes, int way, void *queue)
{
    static const int direction[RUNTIME_WAYS] = {[RUNTIME_IN] = CNRT_HOST_TO_DEVICE,
                                                [RUNTIME_OUT] = CNRT_DEVICE_TO_HOST,
                                                [RUNTIME_WITHIN] = CNRT_DEVICE_TO_DEVICE};
    (void)rt;
    return came_to(f.copy(to, (void *)(uintptr_t)from, bytes, queue, direction[way]));
}

static int fill(struct runtime *rt, void *p, int value, size_t bytes, void *queue)
{
    (void)rt;
    return came_to(f.fill(p, value, bytes, queue));
}

static int peer_open(struct runtime *rt, int device, int other)
{
    unsigned can = 0;
    int code = came_to(f.peer_can(&can, device, other));
    (void)rt;
    return code || can ? code : CNRT_NOT_SUPPORTED;
}

static int peer_copy(struct runtime *rt, void *to, int device, const void *from, int other, size_t bytes, void *queue)
{
    (void)rt;
    return came_to(f.peer_copy(to, device, (void *)(uintptr_t)from, other, bytes, queue));
}

/* ---- queues and notifiers ------------------------------------------------ */

static int queue_create(struct runtime *rt, void **queue)
{
    (void)rt;
    return came_to(f.queue_create(queue));
}

static int queue_destroy(struct runtime *rt, void *queue)
{
    (void)rt;
    return came_to(f.queue_destroy(queue));
}

static int queue_synchronize(struct runtime *rt, void *queue)
{
    (void)rt;
    return came_to(f.queue_sync(queue));
}

static int queue_check(struct runtime *rt, void *queue)
{
    int code = came_to(f.queue_query(queue));
    (void)rt;
    return code == CNRT_NOT_READY || code == CNRT_BUSY ? 0 : code;
}

static int queue_follow(struct runtime *rt, void *queue, void *notifier)
{
    (void)rt;
    return came_to(f.queue_wait(notifier, queue, 0));
}

static int notifier_create(struct runtime *rt, void **notifier)
{
    (void)rt;
    return came_to(f.notifier_create(notifier, CNRT_NOTIFIER_DISABLE_TIMING_ALL));
}

static int notifier_destroy(struct runtime *rt, void *notifier)
{
    (void)rt;
    return came_to(f.notifier_destroy(notifier));
}

static int notifier_place(struct runtime *rt, void *notifier, void *queue)
{
    (void)rt;
    return came_to(f.notifier_place(notifier, queue));
}

static int notifier_query(struct runtime *rt, void *notifier, bool *passed)
{
    int code = came_to(f.notifier_query(notifier));
    (void)rt;
    *passed = code == 0;
    return code == CNRT_NOT_READY || code == CNRT_BUSY ? 0 : code;
}

static const struct runtime_calls calls = {
    .find = find,
    .start = start,
    .enter = enter,
    .leave = leave,
    .describe = describe,
    .memory_info = memory_info,
    .allocate = allocate,
    .release = release,
    .copy = copy,
    .fill = fill,
    .peer_open = peer_open,
    .peer_copy = peer_copy,
    .stream_create = queue_create,
    .stream_destroy = queue_destroy,
    .stream_synchronize = queue_synchronize,
    .stream_check = queue_check,
    .stream_follow = queue_follow,
    .event_create = notifier_create,
    .event_destroy = notifier_destroy,
    .event_record = notifier_place,
    .event_query = notifier_query,
    .error = error,
    .text = text,
};

static struct runtime cnrt = {
    .call = &calls,
    .kind = "cnrt",
    .maker = "Cambricon",
    .vendor = "cambricon",
    .api = "CNRT",
    .library = {"libcnrt.so"},
    .folder = {"$NEUWARE_HOME/lib64", "/usr/local/neuware/lib64"},
    .node = {"/dev/cambricon_ctl"},
    .limit = "TERRACE_LIMIT_CNRT",
    .chooses = "MLU_VISIBLE_DEVICES",
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .pinning = PTHREAD_MUTEX_INITIALIZER,
};

RUNTIME_BACKEND(cnrt, &cnrt);
