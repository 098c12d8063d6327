/* ascend.c - the tier of Huawei's Ascend devices, through the runtime of CANN (ACL).
 *
 * What differs from CUDA's shape: copies and fills are told how much room there is
 * behind the destination; an event's status comes by a pointer; the thread's state is a
 * context, of which each device has a default one, that is there once the device was
 * set; the runtime is started by aclInit(), which whoever calls it first does for all.
 *
 * Events are those of aclrtCreateEventExWithFlag(), which may be recorded again without
 * a reset. Host memory is registered by aclrtHostRegisterV2(), where that is there and
 * the kernel is newer than 5.10, as ordinary memory must not be registered before.
 * Memory is put behind addresses by granules of 2 MiB, as long as the runtime has the
 * functions and these work on the device; else it is allocated, and how much can be at
 * once is tried out. A device that was set stays set, and a thread without any context
 * has the device's afterwards.
 *
 * Source: hicann/runtime (include/external/acl/acl_rt.h, error_codes/rt_error_codes.h),
 * Huawei's documentation of CANN 8 and 9 (aclcppdevg), Ascend/pytorch.
 *
 * May call: runtime.h, libc. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include "runtime.h"

typedef int acl_error;

enum { /* aclrtMemcpyKind and others */
    ACL_MEMCPY_HOST_TO_DEVICE = 1,
    ACL_MEMCPY_DEVICE_TO_HOST = 2,
    ACL_MEMCPY_DEVICE_TO_DEVICE = 3,
    ACL_DDR_MEM = 0,
    ACL_HBM_MEM = 1,
    ACL_MEM_MALLOC_HUGE_FIRST = 0,
    ACL_EVENT_SYNC = 1,
    ACL_EVENT_RECORDED_STATUS_COMPLETE = 1,
    ACL_HOST_REG_PINNED = 0x10000000,
    ACL_MEM_LOCATION_TYPE_DEVICE = 1,
    ACL_HBM_MEM_HUGE = 4,
    HUGE_PAGES = 1 /* as flags of aclrtReserveMemAddress() */
};

typedef struct { /* aclrtPhysicalMemProp */
    int handle_type;     /* ACL_MEM_HANDLE_TYPE_NONE, 0 */
    int allocation_type; /* ACL_MEM_ALLOCATION_TYPE_PINNED, 0 */
    int attribute;       /* ACL_HBM_MEM_HUGE */
    struct {
        uint32_t id;
        int type; /* ACL_MEM_LOCATION_TYPE_DEVICE */
    } location;
    uint64_t reserved;
} acl_property;
_Static_assert(sizeof(acl_property) == 32, "acl_property");

#define ACL_ERRORS(X)                                   \
    X(ACL_ERROR_INVALID_PARAM, 100000, EINVAL)          \
    X(ACL_ERROR_REPEAT_INITIALIZE, 100002, EINVAL)      \
    X(ACL_ERROR_RT_PARAM_INVALID, 107000, EINVAL)       \
    X(ACL_ERROR_RT_INVALID_DEVICEID, 107001, ENOENT)    \
    X(ACL_ERROR_RT_CONTEXT_NULL, 107002, EINVAL)        \
    X(ACL_ERROR_RT_STREAM_CONTEXT, 107003, EINVAL)      \
    X(ACL_ERROR_RT_INVALID_HANDLE, 107017, EINVAL)      \
    X(ACL_ERROR_RT_STREAM_CAPTURED, 107027, EBUSY)      \
    X(ACL_ERROR_RT_EVENT_CAPTURED, 107028, EBUSY)       \
    X(ACL_ERROR_RT_CAPTURE_MODE_NOT_SUPPORT, 107030, EBUSY) \
    X(ACL_ERROR_RT_STREAM_CAPTURE_IMPLICIT, 107031, EBUSY) \
    X(ACL_ERROR_BAD_ALLOC, 200000, EDEVMEM)             \
    X(ACL_ERROR_RT_FEATURE_NOT_SUPPORT, 207000, ENOTSUP) \
    X(ACL_ERROR_RT_MEMORY_ALLOCATION, 207001, EDEVMEM)  \
    X(ACL_ERROR_RT_NO_DEVICE, 207004, ENOENT)           \
    X(ACL_ERROR_RT_RESOURCE_ALLOC_FAIL, 207005, ENOMEM) \
    X(ACL_ERROR_RT_NO_PERMISSION, 207006, EPERM)        \
    X(ACL_ERROR_RT_NO_EVENT_RESOURCE, 207007, ENOMEM)   \
    X(ACL_ERROR_RT_NO_STREAM_RESOURCE, 207008, ENOMEM)  \
    X(ACL_ERROR_RT_REPEATED_INIT, 207015, EINVAL)       \
    X(ACL_ERROR_RT_DEVICE_OOM, 207018, EDEVMEM)         \
    X(ACL_ERROR_RT_INTERNAL_ERROR, 507000, EDEVICE)     \
    X(ACL_ERROR_RT_LOST_HEARTBEAT, 507010, EDEVICE)     \
    X(ACL_ERROR_RT_AICORE_EXCEPTION, 507015, EDEVICE)   \
    X(ACL_ERROR_RT_DEVICE_MEM_ERROR, 507053, EDEVICE)   \
    X(ACL_ERROR_HOST_MEMORY_ALREADY_REGISTERED, 507910, ENOTSUP) \
    X(ACL_ERROR_HOST_MEMORY_NOT_REGISTERED, 507911, ENOTSUP)

enum {
#define VALUE(name, number, error) name = (number),
    ACL_ERRORS(VALUE)
#undef VALUE
};

/* REQUIRED or OPTIONAL(member, name, result, parameters). */
#define ASCEND_FUNCTIONS(REQUIRED, OPTIONAL)                                               \
    REQUIRED(init, aclInit, acl_error, (const char *))                                     \
    REQUIRED(device_count, aclrtGetDeviceCount, acl_error, (uint32_t *))                   \
    REQUIRED(device_set, aclrtSetDevice, acl_error, (int32_t))                             \
    REQUIRED(context_get, aclrtGetCurrentContext, acl_error, (void **))                    \
    REQUIRED(context_set, aclrtSetCurrentContext, acl_error, (void *))                     \
    REQUIRED(memory_info, aclrtGetMemInfo, acl_error, (int, size_t *, size_t *))           \
    REQUIRED(allocate, aclrtMalloc, acl_error, (void **, size_t, int))                     \
    REQUIRED(release, aclrtFree, acl_error, (void *))                                      \
    REQUIRED(copy, aclrtMemcpyAsync, acl_error, (void *, size_t, const void *, size_t, int, void *)) \
    REQUIRED(fill, aclrtMemsetAsync, acl_error, (void *, size_t, int32_t, size_t, void *)) \
    REQUIRED(stream_create, aclrtCreateStream, acl_error, (void **))                       \
    REQUIRED(stream_destroy, aclrtDestroyStream, acl_error, (void *))                      \
    REQUIRED(stream_synchronize, aclrtSynchronizeStream, acl_error, (void *))              \
    REQUIRED(stream_wait, aclrtStreamWaitEvent, acl_error, (void *, void *))               \
    REQUIRED(event_create, aclrtCreateEventExWithFlag, acl_error, (void **, uint32_t))     \
    REQUIRED(event_destroy, aclrtDestroyEvent, acl_error, (void *))                        \
    REQUIRED(event_record, aclrtRecordEvent, acl_error, (void *, void *))                  \
    REQUIRED(event_query, aclrtQueryEventStatus, acl_error, (void *, int *))               \
    OPTIONAL(stream_query, aclrtStreamQuery, acl_error, (void *, int *))                   \
    OPTIONAL(host_register, aclrtHostRegisterV2, acl_error, (void *, uint64_t, uint32_t))  \
    OPTIONAL(host_unregister, aclrtHostUnregister, acl_error, (void *))                    \
    OPTIONAL(peer_can, aclrtDeviceCanAccessPeer, acl_error, (int32_t *, int32_t, int32_t)) \
    OPTIONAL(peer_enable, aclrtDeviceEnablePeerAccess, acl_error, (int32_t, uint32_t))     \
    OPTIONAL(reserve, aclrtReserveMemAddress, acl_error, (void **, size_t, size_t, void *, uint64_t)) \
    OPTIONAL(unreserve, aclrtReleaseMemAddress, acl_error, (void *))                       \
    OPTIONAL(create, aclrtMallocPhysical, acl_error, (void **, size_t, const acl_property *, uint64_t)) \
    OPTIONAL(destroy, aclrtFreePhysical, acl_error, (void *))                              \
    OPTIONAL(map, aclrtMapMem, acl_error, (void *, size_t, size_t, void *, uint64_t))      \
    OPTIONAL(unmap, aclrtUnmapMem, acl_error, (void *))                                    \
    OPTIONAL(soc_name, aclrtGetSocName, const char *, (void))                              \
    OPTIONAL(bus, aclrtDeviceGetPCIBusId, acl_error, (int32_t, char *, int32_t))           \
    OPTIONAL(recent, aclGetRecentErrMsg, const char *, (void))

static struct {
#define MEMBER(member, name, result, parameters) result(*member) parameters;
    ASCEND_FUNCTIONS(MEMBER, MEMBER)
#undef MEMBER
} acl; /* not called until all that is required was found */

/* The default contexts of devices that were set; under the lock. */
static void *contexts[RUNTIME_MOST];
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

/* ---- loading and errors -------------------------------------------------- */

/* Whether ordinary memory may be registered. */
static bool kernel_registers(void)
{
    struct utsname name;
    if (uname(&name))
        return false;
    char *end;
    long major = strtol(name.release, &end, 10), minor = *end == '.' ? strtol(end + 1, NULL, 10) : 0;
    return major > 5 || (major == 5 && minor > 10);
}

static void find(struct runtime *rt, void *library)
{
#define REQUIRED(member, name, result, parameters) runtime_symbol(rt, library, "", #name, true, &acl.member);
#define OPTIONAL(member, name, result, parameters) runtime_symbol(rt, library, "", #name, false, &acl.member);
    ASCEND_FUNCTIONS(REQUIRED, OPTIONAL)
#undef REQUIRED
#undef OPTIONAL
    rt->registers = acl.host_register && acl.host_unregister && kernel_registers();
    rt->peers = acl.peer_can && acl.peer_enable;
    rt->maps = acl.reserve && acl.unreserve && acl.create && acl.destroy && acl.map && acl.unmap;
}

static const struct {
    acl_error code;
    int error;
    const char *name;
} known[] = {
#define KNOWN(constant, number, error) {number, -TERRACE_##error, #constant},
    ACL_ERRORS(KNOWN)
#undef KNOWN
};
enum { KNOWN_ERRORS = sizeof known / sizeof *known };

static int error(const struct runtime *rt, int code)
{
    (void)rt;
    for (int i = 0; i < KNOWN_ERRORS; i++)
        if (known[i].code == code)
            return known[i].error;
    return code ? -TERRACE_EDEVICE : 0; /* most others end the device's use */
}

/* The last sentence of the runtime's own comes along, as far as it fits on a line. */
static void text(const struct runtime *rt, int code, char *buf, size_t len)
{
    const char *name = "ACL error", *recent = acl.recent ? acl.recent() : NULL;
    (void)rt;
    for (int i = 0; i < KNOWN_ERRORS; i++)
        if (known[i].code == code)
            name = known[i].name;
    int more = recent ? (int)strcspn(recent, "\n") : 0;
    snprintf(buf, len, "%s (%d)%s%.*s", name, code, more ? ": " : "", more, recent ? recent : "");
}

static int start(struct runtime *rt, int *devices)
{
    uint32_t n = 0;
    int code = acl.init(NULL);
    (void)rt;
    if (code == ACL_ERROR_REPEAT_INITIALIZE || code == ACL_ERROR_RT_REPEATED_INIT)
        code = 0;
    if (code == 0)
        code = acl.device_count(&n);
    *devices = (int)n;
    return code;
}

/* ---- devices ------------------------------------------------------------- */

/* Sets a device up in this thread, the first time. */
static int set_up_locked(int device)
{
    int code = acl.device_set(device);
    void *context = NULL;
    if (code == 0)
        code = acl.context_get(&context);
    if (code == 0)
        contexts[device] = context;
    return code;
}

static void restore(void *context)
{
    if (context && acl.context_set(context))
        (void)acl.context_set(context);
}

static int enter(struct runtime *rt, int device, struct runtime_scope *scope)
{
    int code = acl.context_get(&scope->context);
    (void)rt;
    if (code)
        scope->context = NULL;
    if (code && code != ACL_ERROR_RT_CONTEXT_NULL) /* the thread has none */
        return code;
    pthread_mutex_lock(&lock);
    bool there = contexts[device];
    code = there ? 0 : set_up_locked(device);
    void *context = contexts[device];
    pthread_mutex_unlock(&lock);
    if (code == 0 && there && scope->context != context)
        code = acl.context_set(context);
    if (code)
        restore(scope->context);
    return code;
}

static void leave(struct runtime *rt, const struct runtime_scope *scope)
{
    (void)rt;
    restore(scope->context);
}

static int describe(struct runtime *rt, int device, char *model, size_t model_len, char *bus, size_t bus_len)
{
    const char *name = acl.soc_name ? acl.soc_name() : NULL;
    (void)rt;
    snprintf(model, model_len, "%s", name ? name : "Ascend");
    if (!acl.bus || acl.bus(device, bus, (int32_t)bus_len))
        *bus = '\0';
    return 0;
}

/* Small devices have ordinary memory only. */
static int memory_info(struct runtime *rt, size_t *unused, size_t *all)
{
    (void)rt;
    if (acl.memory_info(ACL_HBM_MEM, unused, all) == 0 && *all)
        return 0;
    return acl.memory_info(ACL_DDR_MEM, unused, all);
}

/* ---- memory and copies --------------------------------------------------- */

static int allocate(struct runtime *rt, void **p, size_t bytes)
{
    (void)rt;
    return acl.allocate(p, bytes, ACL_MEM_MALLOC_HUGE_FIRST);
}

static int release(struct runtime *rt, void *p)
{
    (void)rt;
    return acl.release(p);
}

static int reserve(struct runtime *rt, void **p, size_t bytes)
{
    (void)rt;
    return acl.reserve(p, bytes, 0, NULL, HUGE_PAGES);
}

static int unreserve(struct runtime *rt, void *p)
{
    (void)rt;
    return acl.unreserve(p);
}

static int map(struct runtime *rt, int device, void *p, size_t bytes, void **memory)
{
    const acl_property property = {.attribute = ACL_HBM_MEM_HUGE,
                                   .location = {.id = (uint32_t)device, .type = ACL_MEM_LOCATION_TYPE_DEVICE}};
    int code = acl.create(memory, bytes, &property, 0);
    (void)rt;
    if (code)
        return code;
    code = acl.map(p, bytes, 0, *memory, 0);
    if (code)
        (void)RUNTIME_UNDO(acl.destroy(*memory));
    return code;
}

/* Older versions want memory unmapped before it is given back. */
static int unmap(struct runtime *rt, void *p, void *memory)
{
    (void)rt;
    bool unmapped = RUNTIME_UNDO(acl.unmap(p));
    return RUNTIME_UNDO(acl.destroy(memory)) && unmapped ? 0 : ACL_ERROR_RT_PARAM_INVALID;
}

static int pin(struct runtime *rt, void *p, size_t bytes)
{
    (void)rt;
    return acl.host_register(p, bytes, ACL_HOST_REG_PINNED);
}

static int unpin(struct runtime *rt, void *p)
{
    int code = acl.host_unregister(p);
    (void)rt;
    return code == ACL_ERROR_HOST_MEMORY_NOT_REGISTERED ? 0 : code;
}

static int copy(struct runtime *rt, void *to, const void *from, size_t bytes, int way, void *stream)
{
    static const int kind[RUNTIME_WAYS] = {[RUNTIME_IN] = ACL_MEMCPY_HOST_TO_DEVICE,
                                           [RUNTIME_OUT] = ACL_MEMCPY_DEVICE_TO_HOST,
                                           [RUNTIME_WITHIN] = ACL_MEMCPY_DEVICE_TO_DEVICE};
    (void)rt;
    return acl.copy(to, bytes, from, bytes, kind[way], stream);
}

static int fill(struct runtime *rt, void *p, int value, size_t bytes, void *stream)
{
    (void)rt;
    return acl.fill(p, bytes, value, bytes, stream);
}

static int peer_open(struct runtime *rt, int device, int other)
{
    int32_t can = 0;
    int code = acl.peer_can(&can, device, other);
    (void)rt;
    if (code || !can)
        return code ? code : ACL_ERROR_RT_FEATURE_NOT_SUPPORT;
    return acl.peer_enable(other, 0);
}

/* The runtime knows by the addresses whose memory it is. */
static int peer_copy(struct runtime *rt, void *to, int device, const void *from, int other, size_t bytes, void *stream)
{
    (void)device, (void)other;
    return copy(rt, to, from, bytes, RUNTIME_WITHIN, stream);
}

/* ---- streams and events -------------------------------------------------- */

static int stream_create(struct runtime *rt, void **stream)
{
    (void)rt;
    return acl.stream_create(stream);
}

static int stream_destroy(struct runtime *rt, void *stream)
{
    (void)rt;
    return acl.stream_destroy(stream);
}

static int stream_synchronize(struct runtime *rt, void *stream)
{
    (void)rt;
    return acl.stream_synchronize(stream);
}

static int stream_check(struct runtime *rt, void *stream)
{
    int status = 0;
    (void)rt;
    return acl.stream_query ? acl.stream_query(stream, &status) : 0;
}

static int stream_follow(struct runtime *rt, void *stream, void *event)
{
    (void)rt;
    return acl.stream_wait(stream, event);
}

static int event_create(struct runtime *rt, void **event)
{
    (void)rt;
    return acl.event_create(event, ACL_EVENT_SYNC);
}

static int event_destroy(struct runtime *rt, void *event)
{
    (void)rt;
    return acl.event_destroy(event);
}

static int event_record(struct runtime *rt, void *event, void *stream)
{
    (void)rt;
    return acl.event_record(event, stream);
}

static int event_query(struct runtime *rt, void *event, bool *passed)
{
    int status = 0;
    int code = acl.event_query(event, &status);
    (void)rt;
    *passed = status == ACL_EVENT_RECORDED_STATUS_COMPLETE;
    return code;
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
    .reserve = reserve,
    .unreserve = unreserve,
    .map = map,
    .unmap = unmap,
    .pin = pin,
    .unpin = unpin,
    .copy = copy,
    .fill = fill,
    .peer_open = peer_open,
    .peer_copy = peer_copy,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .stream_synchronize = stream_synchronize,
    .stream_check = stream_check,
    .stream_follow = stream_follow,
    .event_create = event_create,
    .event_destroy = event_destroy,
    .event_record = event_record,
    .event_query = event_query,
    .error = error,
    .text = text,
};

static struct runtime ascend = {
    .call = &calls,
    .kind = "ascend",
    .maker = "Ascend",
    .vendor = "huawei",
    .api = "ACL",
    .library = {"libascendcl.so"},
    .folder = {"$ASCEND_HOME_PATH/lib64", "/usr/local/Ascend/ascend-toolkit/latest/lib64"},
    .node = {"/dev/davinci_manager"},
    .limit = "TERRACE_LIMIT_ASCEND",
    .chooses = "ASCEND_RT_VISIBLE_DEVICES",
    .limited = true,
    .lock = PTHREAD_MUTEX_INITIALIZER,
    .pinning = PTHREAD_MUTEX_INITIALIZER,
};

RUNTIME_BACKEND(ascend, &ascend);
