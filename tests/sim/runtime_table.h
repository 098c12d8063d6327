/* runtime_table.h - what simulated runtimes have in common, whose functions work on the
 * device that is current in a thread. A vendor's file defines, as its sources have them,
 * and then includes this:
 *
 *   ERRORS(X)            X(name, number) for each error
 *   CODES                the vendor's error for each of the engine's
 *   NO_MEMORY, UNKNOWN   two of them
 *   PREFIX               of settings in the environment
 *   STREAM(handle)       the engine's handle for one of its streams, unless that is the same
 *   NO_FIRST_DEVICE      defined where a thread that has set no device has none; else it
 *                        uses device 0
 *
 * A device is set up when it is first used, and stays so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "stream.h"

enum {
#define VALUE(name, number) name = (number),
    ERRORS(VALUE)
#undef VALUE
};

/* ---- codes and entries ----------------------------------------------------------- */

static __thread int last_error;

static int code_of(int error)
{
    static const int codes[SIM_ERRORS] = CODES;
    if (error == SIM_ELOST) {
        const struct context *context = context_current();
        int lost = context ? context->device->lost_code : 0;
        return lost ? lost : UNKNOWN;
    }
    return error && !codes[error] ? UNKNOWN : codes[error];
}

static uint64_t number(const void *handle)
{
    return (uintptr_t)handle;
}

#ifndef STREAM
#define STREAM(handle) number(handle)
#endif

static uint64_t stream_of(void *stream)
{
    return STREAM(stream);
}

const struct vendor vendor = {.prefix = PREFIX, .code = code_of, .stream = stream_of, .lasting = true};

static int keep(int code)
{
    if (code)
        last_error = code;
    return code;
}

static int leave(int error)
{
    return keep(entry_leave(error));
}

/* Makes a device current, set up at its first use. */
static int use_device(int id)
{
    static bool used[MAX_DEVICES];
    struct device *device;
    struct context *context;
    int r = devices_get(id, &device);
    if (r)
        return r;
    engine_lock();
    bool first = !used[id];
    used[id] = true;
    engine_unlock();
    if (first)
        context_retain(device, &context);
    return context_set(&device->context);
}

static int begin(struct entry *entry, unsigned conditions)
{
    bool any = devices_count() > 0;
#ifndef NO_FIRST_DEVICE
    if (!engine.forked && !devices_init() && !context_current())
        use_device(0);
#endif
    int refused = entry_enter(entry, any ? ENTRY_INIT | conditions : ENTRY_ANY);
    return keep(refused ? refused : any ? 0 : code_of(SIM_ENODEVICE));
}

#define ENTER(conditions)                               \
    do {                                                \
        static struct entry entry = {.name = __func__}; \
        int refused = begin(&entry, conditions);        \
        if (refused)                                    \
            return refused;                             \
    } while (0)

static int misused(const char *call, const char *what)
{
    misuse("%s: %s", call, what);
    return leave(SIM_EINVAL);
}
#define MISUSED(what) misused(__func__, what)

/* Calls that choose a device succeed also where that has failed. */
static int chosen(int r)
{
    entry_leave(SIM_OK);
    return r ? leave(r) : 0;
}

/* An allocation, which may be limited. */
static int allocate(void **p, size_t bytes)
{
    uint64_t at, most = (uint64_t)sim_get("ALLOCATION");
    int r = most && bytes > most ? SIM_ENOMEM : memory_alloc(context_current(), bytes, &at);
    if (!r)
        *p = (void *)(uintptr_t)at;
    return leave(r);
}

/* ---- between devices ------------------------------------------------------------- */

/* Whether one of these could use the other's memory. */
static int can_reach(int device, int other, bool *can)
{
    struct device *found;
    int r = devices_get(device, &found);
    if (!r && !(r = devices_get(other, &found)))
        *can = device != other && sim_get("PEER");
    return r;
}

/* Lets the current device use the other's memory. */
static int reach(int other)
{
    struct device *found;
    int r = devices_get(other, &found);
    return r ? r : context_enable_peer(context_current(), &found->context, true);
}

/* Whether the memory is that device's, and the current one may use it. */
static bool is_reached(const void *p, int device)
{
    int is;
    const struct context *current = context_current();
    return memory_kind(number(p), &is) == MEMORY_DEVICE && is == device &&
           (device == current->device->id || current->peers[device]);
}
