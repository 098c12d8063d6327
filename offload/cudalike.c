/* cudalike.c - the tiers of vendors whose runtime has CUDA's shape, a row for each:
 * AMD and Hygon (HIP), Moore Threads (MUSA), MetaX (MACA), Iluvatar (CoreX).
 *
 * Where a vendor's function may be missing in some version, the tier does without it:
 * registered host memory, copies between devices, the device's name and place, texts of
 * errors, and what is known of captures. After a call that failed the thread's last error is taken back,
 * so that no framework finds it and takes it for one of its own.
 *
 * May call: cudalike.h, runtime.h, libc. */
#include "cudalike.h"

#include <stdio.h>
#include <string.h>

static struct cudalike *of(const struct runtime *rt)
{
    return (struct cudalike *)(uintptr_t)rt; /* its first member */
}

/* ---- loading ------------------------------------------------------------- */

static void find(struct runtime *rt, void *library)
{
    struct cudalike *c = of(rt);
#define REQUIRED(member, name, result, parameters) runtime_symbol(rt, library, c->prefix, #name, true, &c->f.member);
#define OPTIONAL(member, name, result, parameters) runtime_symbol(rt, library, c->prefix, #name, false, &c->f.member);
    CUDALIKE_FUNCTIONS(REQUIRED, OPTIONAL)
#undef REQUIRED
#undef OPTIONAL
    rt->registers = c->f.host_register && c->f.host_unregister;
    rt->peers = c->f.peer_can && c->f.peer_enable && c->f.peer_copy;
}

/* ---- errors -------------------------------------------------------------- */

static int error(const struct runtime *rt, int code)
{
    const struct cudalike_values *is = &of(rt)->is;
    if (code == 0)
        return 0;
    if (code >= is->capture_first && code <= is->capture_last)
        return -TERRACE_EBUSY;
    if (code == is->out_of_memory || code == is->also_out_of_memory)
        return -TERRACE_EDEVMEM;
    if (code == is->invalid_value || code == is->invalid_handle)
        return -TERRACE_EINVAL;
    if (code == is->no_device || code == is->invalid_device)
        return -TERRACE_ENOENT;
    if (code == is->not_ready)
        return -TERRACE_EAGAIN;
    if (code == is->not_permitted)
        return -TERRACE_EPERM;
    if (code == is->already_registered || code == is->not_registered || code == is->already_peers ||
        code == is->not_supported)
        return -TERRACE_ENOTSUP;
    return -TERRACE_EDEVICE; /* most others end the device's use */
}

static void text(const struct runtime *rt, int code, char *buf, size_t len)
{
    const struct cudalike_functions *f = &of(rt)->f;
    const char *name = f->error_name ? f->error_name(code) : NULL;
    const char *words = f->error_text ? f->error_text(code) : NULL;
    if (!name && !words)
        snprintf(buf, len, "%s error %d", rt->api, code);
    else if (!name || !words || strcmp(name, words) == 0)
        snprintf(buf, len, "%s (%d)", name ? name : words, code);
    else
        snprintf(buf, len, "%s (%s)", name, words);
}

/* What a call came to; the thread does not keep it. */
static int came_to(const struct runtime *rt, int code)
{
    if (code && of(rt)->f.last_error)
        (void)of(rt)->f.last_error();
    return code;
}

/* ---- devices ------------------------------------------------------------- */

static int start(struct runtime *rt, int *devices)
{
    return came_to(rt, of(rt)->f.device_count(devices));
}

/* Setting may report what earlier calls of others came to, although it did it. */
static void restore(struct runtime *rt, int device)
{
    const struct cudalike_functions *f = &of(rt)->f;
    int now = -1;
    if (came_to(rt, f->device_set(device)) && (came_to(rt, f->device_get(&now)) || now != device))
        (void)came_to(rt, f->device_set(device));
}

static int enter(struct runtime *rt, int device, struct runtime_scope *scope)
{
    const struct cudalike_functions *f = &of(rt)->f;
    int code = came_to(rt, f->device_get(&scope->device));
    if (code)
        return code;
    scope->device_set = scope->device != device;
    code = scope->device_set ? came_to(rt, f->device_set(device)) : 0;
    scope->mode = of(rt)->is.relaxed;
    if (code == 0 && f->exchange_mode && scope->mode)
        scope->mode_set = came_to(rt, f->exchange_mode(&scope->mode)) == 0;
    if (code && scope->device_set)
        restore(rt, scope->device);
    return code;
}

static void leave(struct runtime *rt, const struct runtime_scope *scope)
{
    const struct cudalike_functions *f = &of(rt)->f;
    int mode = scope->mode;
    if (scope->mode_set && came_to(rt, f->exchange_mode(&mode)) && mode == scope->mode)
        (void)came_to(rt, f->exchange_mode(&mode));
    if (scope->device_set)
        restore(rt, scope->device);
}

/* The name stands first in all forms of the properties; the rest differs, and is not
 * looked at. */
static int describe(struct runtime *rt, int device, char *model, size_t model_len, char *bus, size_t bus_len)
{
    const struct cudalike_functions *f = &of(rt)->f;
    char properties[16384] = ""; /* the largest known has 1.5 KiB */
    int code = f->properties ? came_to(rt, f->properties(properties, device)) : 0;
    if (code && code != of(rt)->is.not_supported)
        return code;
    snprintf(model, model_len, "%.79s", *properties ? properties : "unnamed");
    if (!f->bus || came_to(rt, f->bus(bus, (int)bus_len, device)))
        *bus = '\0';
    return 0;
}

/* ---- memory and copies --------------------------------------------------- */

static int memory_info(struct runtime *rt, size_t *unused, size_t *all)
{
    return came_to(rt, of(rt)->f.memory_info(unused, all));
}

static int allocate(struct runtime *rt, void **p, size_t bytes)
{
    return came_to(rt, of(rt)->f.allocate(p, bytes));
}

static int release(struct runtime *rt, void *p)
{
    return came_to(rt, of(rt)->f.release(p));
}

static int pin(struct runtime *rt, void *p, size_t bytes)
{
    return came_to(rt, of(rt)->f.host_register(p, bytes, of(rt)->is.register_portable));
}

static int unpin(struct runtime *rt, void *p)
{
    int code = came_to(rt, of(rt)->f.host_unregister(p));
    return code == of(rt)->is.not_registered ? 0 : code; /* as it is where the device was reset since */
}

static int copy(struct runtime *rt, void *to, const void *from, size_t bytes, int way, void *stream)
{
    return came_to(rt, of(rt)->f.copy(to, from, bytes, of(rt)->is.kind[way], stream));
}

static int fill(struct runtime *rt, void *p, int value, size_t bytes, void *stream)
{
    return came_to(rt, of(rt)->f.fill(p, value, bytes, stream));
}

/* Access once given stays, as others may have asked for it, too. */
static int peer_open(struct runtime *rt, int device, int other)
{
    const struct cudalike *c = of(rt);
    int can = 0;
    int code = came_to(rt, c->f.peer_can(&can, device, other));
    if (code || !can)
        return code ? code : c->is.not_supported;
    code = came_to(rt, c->f.peer_enable(other, 0));
    return code == c->is.already_peers ? 0 : code;
}

static int peer_copy(struct runtime *rt, void *to, int device, const void *from, int other, size_t bytes, void *stream)
{
    return came_to(rt, of(rt)->f.peer_copy(to, device, from, other, bytes, stream));
}

/* ---- streams and events -------------------------------------------------- */

static int stream_create(struct runtime *rt, void **stream)
{
    return came_to(rt, of(rt)->f.stream_create(stream, of(rt)->is.stream_non_blocking));
}

static int stream_destroy(struct runtime *rt, void *stream)
{
    return came_to(rt, of(rt)->f.stream_destroy(stream));
}

static int stream_synchronize(struct runtime *rt, void *stream)
{
    return came_to(rt, of(rt)->f.stream_synchronize(stream));
}

static int stream_check(struct runtime *rt, void *stream)
{
    const struct cudalike *c = of(rt);
    int status = 0;
    int code = c->is.not_supported;
    if (c->f.capturing && c->is.tells_captures)
        code = came_to(rt, c->f.capturing(stream, &status));
    if (code != c->is.not_supported)
        return code ? code : status ? c->is.capture_first : 0;
    code = came_to(rt, c->f.stream_query(stream));
    return code == c->is.not_ready ? 0 : code;
}

static int stream_follow(struct runtime *rt, void *stream, void *event)
{
    return came_to(rt, of(rt)->f.stream_wait(stream, event, 0));
}

static int event_create(struct runtime *rt, void **event)
{
    return came_to(rt, of(rt)->f.event_create(event, of(rt)->is.event_without_time));
}

static int event_destroy(struct runtime *rt, void *event)
{
    return came_to(rt, of(rt)->f.event_destroy(event));
}

static int event_record(struct runtime *rt, void *event, void *stream)
{
    return came_to(rt, of(rt)->f.event_record(event, stream));
}

static int event_query(struct runtime *rt, void *event, bool *passed)
{
    int code = came_to(rt, of(rt)->f.event_query(event));
    *passed = code == 0;
    return code == of(rt)->is.not_ready ? 0 : code;
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

/* ---- the vendors --------------------------------------------------------- */

#define VALUE(member, number, name) .is.member = number,
#define NEW .call = &calls, .lock = PTHREAD_MUTEX_INITIALIZER, .pinning = PTHREAD_MUTEX_INITIALIZER

/* AMD Instinct, and Hygon DCU, whose toolkit (DTK) brings the same interface in a
 * library of another name. The number in the library's name is HIP's major version.
 * The nodes are those of the kernel drivers: amdkfd, and Hygon's. */
static struct cudalike hip = {
    .runtime = {NEW,
                .kind = "hip",
                .maker = "AMD or Hygon",
                .vendor = "amd",
                .api = "HIP",
                .library = {"libamdhip64.so.7", "libamdhip64.so.6", "libamdhip64.so.5", "libgalaxyhip.so.5"},
                .folder = {"/opt/rocm/lib", "/opt/dtk/hip/lib"},
                .node = {"/dev/kfd", "/dev/mkfd"},
                .limit = "TERRACE_LIMIT_HIP",
                .chooses = "HIP_VISIBLE_DEVICES"},
    .prefix = "hip",
    .is.tells_captures = true,
    CUDALIKE_HIP(VALUE)
};

/* Moore Threads. Before MUSA 4.1 captures are not told: where the function is there, it
 * says that it is not supported. */
static struct cudalike musa = {
    .runtime = {NEW,
                .kind = "musa",
                .maker = "Moore Threads",
                .vendor = "moorethreads",
                .api = "MUSA",
                .library = {"libmusart.so", "libmusart.so.5", "libmusart.so.4"},
                .folder = {"$MUSA_HOME/lib", "/usr/local/musa/lib"},
                .limit = "TERRACE_LIMIT_MUSA",
                .chooses = "MUSA_VISIBLE_DEVICES"},
    .prefix = "musa",
    .is.tells_captures = true,
    CUDALIKE_MUSA(VALUE)
};

/* MetaX. No public source has a function of its that tells captures. */
static struct cudalike maca = {
    .runtime = {NEW,
                .kind = "maca",
                .maker = "MetaX",
                .vendor = "metax",
                .api = "MACA",
                .library = {"libmcruntime.so"},
                .folder = {"$MACA_PATH/lib", "/opt/maca/lib"},
                .limit = "TERRACE_LIMIT_MACA",
                .chooses = "MACA_VISIBLE_DEVICES"},
    .prefix = "mc",
    CUDALIKE_MACA(VALUE)
};

/* Iluvatar, whose runtime has CUDA's own names. It is looked for in its own folders
 * only, as NVIDIA's library is called the same, and its devices call themselves
 * Iluvatar. */
static struct cudalike corex = {
    .runtime = {NEW,
                .kind = "corex",
                .maker = "Iluvatar",
                .vendor = "iluvatar",
                .api = "CoreX",
                .library = {"libcudart.so"},
                .folder = {"$COREX_HOME/lib64", "/usr/local/corex/lib64", "/usr/local/corex/lib"},
                .folders_only = true,
                .limit = "TERRACE_LIMIT_COREX",
                .chooses = "CUDA_VISIBLE_DEVICES",
                .model = "Iluvatar"},
    .prefix = "cuda",
    .is.tells_captures = true,
    CUDALIKE_COREX(VALUE)
};

RUNTIME_BACKEND(hip, &hip.runtime);
RUNTIME_BACKEND(musa, &musa.runtime);
RUNTIME_BACKEND(maca, &maca.runtime);
RUNTIME_BACKEND(corex, &corex.runtime);
