/* devices.c - the simulated devices, their one context each, and which is current
 * in a thread. May call streams.c, events.c. */
#include <string.h>

#include "stream.h"

enum { DEPTH = 16 };
#define PREFIX 0x5c00000000000000ull

static __thread struct context *stack[DEPTH];
static __thread unsigned depth;

int devices_init(void)
{
    engine_lock();
    int r = engine.forked ? SIM_ENOTINIT : engine.settings.devices <= 0 ? SIM_ENODEVICE : SIM_OK;
    if (!r)
        engine.initialised = true;
    engine_unlock();
    return r;
}

int devices_count(void)
{
    return (int)sim_get("DEVICES");
}

int devices_get(int id, struct device **out)
{
    if (id < 0 || id >= devices_count())
        return SIM_EBADDEVICE;
    *out = &engine.devices[id];
    return SIM_OK;
}

int context_retain(struct device *device, struct context **out)
{
    engine_lock();
    device->context.retained++;
    *out = &device->context;
    engine_unlock();
    return SIM_OK;
}

/* What belongs to a context ends with it. */
static void end_locked(struct context *context)
{
    stream_drain_locked(context);
    unsigned left = streams_leave_locked(context) + events_leave_locked(context);
    if (left)
        misuse_locked("the last release of the context of device %d takes %u streams and events with it",
                      context->device->id, left);
    memset(context->peers, 0, sizeof context->peers);
}

int context_release(struct device *device)
{
    engine_lock();
    struct context *context = &device->context;
    bool there = context->retained;
    if (!there)
        misuse_locked("the context of device %d is released more often than retained", device->id);
    else if (context->retained == 1)
        end_locked(context);
    context->retained -= there;
    engine_unlock();
    return there ? SIM_OK : SIM_ENOCONTEXT;
}

int context_push(struct context *context)
{
    if (depth == DEPTH)
        return SIM_EINVAL;
    stack[depth++] = context;
    return SIM_OK;
}

int context_pop(struct context **out)
{
    if (!depth)
        return SIM_ENOCONTEXT;
    *out = stack[--depth];
    return SIM_OK;
}

int context_set(struct context *context)
{
    if (!context) {
        depth -= depth > 0;
        return SIM_OK;
    }
    depth += !depth;
    stack[depth - 1] = context;
    return SIM_OK;
}

struct context *context_current(void)
{
    return depth ? stack[depth - 1] : NULL;
}

void *context_handle(const struct context *context)
{
    return context ? (void *)(uintptr_t)(PREFIX + 16 * (uint64_t)(context->device->id + 1)) : NULL;
}

struct context *context_of(const void *handle)
{
    uint64_t number = ((uint64_t)(uintptr_t)handle - PREFIX) / 16 - 1;
    return number < MAX_DEVICES && context_handle(&engine.devices[number].context) == handle
               ? &engine.devices[number].context
               : NULL;
}

int context_enable_peer(struct context *context, struct context *peer, bool enable)
{
    engine_lock();
    bool *reached = &context->peers[peer->device->id];
    int r = peer == context || !engine.settings.peer ? SIM_EPEERLESS
            : enable && *reached                     ? SIM_EPEERS
            : !enable && !*reached                   ? SIM_ENOPEERS
                                                     : SIM_OK;
    if (!r)
        *reached = enable;
    engine_unlock();
    return r;
}
