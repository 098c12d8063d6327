/* report.c - what tests ask about the simulated runtime: counts, leaks, and both
 * at the end of the process where that was asked for. */
#include <inttypes.h>
#include <string.h>

#include "stream.h"

SIM_EXPORT void sim_count(struct sim_counts *out)
{
    engine_lock();
    *out = engine.counts;
    engine_unlock();
}

struct list {
    FILE *to;
    unsigned n;
};

static void say(struct list *list, const char *what, uint64_t which, uint64_t bytes)
{
    list->n++;
    if (list->to && bytes)
        fprintf(list->to, "simulated runtime: left: %s %#" PRIx64 ", %" PRIu64 " bytes\n", what, which, bytes);
    else if (list->to)
        fprintf(list->to, "simulated runtime: left: %s %#" PRIx64 "\n", what, which);
}

static void say_stream(void *object, void *list)
{
    const struct stream *stream = object;
    if (!stream->implicit)
        say(list, "stream", stream->handle, 0);
}

static void say_event(void *object, void *list)
{
    say(list, "event", ((const struct event *)object)->handle, 0);
}

static void say_physical(void *object, void *list)
{
    say(list, "memory", ((const struct physical *)object)->handle, ((const struct physical *)object)->bytes);
}

static void say_area(const struct area *area, struct list *list)
{
    const char *what = area->kind == AREA_RESERVED ? "reservation"
                       : area->kind == AREA_MEMORY ? "allocation"
                       : area->allocated           ? "allocated host memory"
                                                   : "registered host memory";
    if (!area->freed)
        say(list, what, area->base, area->bytes);
    for (unsigned i = 0; i < area->n_maps; i++)
        say(list, "mapping", area->maps[i].base, area->maps[i].bytes);
}

SIM_EXPORT unsigned sim_leaks(FILE *to)
{
    struct list list = {.to = to};
    engine_lock();
    const struct area *area;
    for (unsigned i = 0; (area = area_number_locked(i)); i++)
        say_area(area, &list);
    object_each_locked(OBJECT_PHYSICAL, say_physical, &list);
    object_each_locked(OBJECT_STREAM, say_stream, &list);
    object_each_locked(OBJECT_EVENT, say_event, &list);
    for (int i = 0; i < MAX_DEVICES; i++)
        if (engine.devices[i].context.retained && !vendor.lasting)
            say(&list, "context of device", (uint64_t)i, 0);
    engine_unlock();
    return list.n;
}

__attribute__((destructor)) static void report(void)
{
    if (!sim_get("REPORT") || engine.forked)
        return;
    unsigned misuses = sim_misuses(), leaks = sim_leaks(stderr);
    for (unsigned i = 0; i < misuses; i++)
        fprintf(stderr, "simulated runtime: misuse: %s\n", sim_misuse(i));
    fprintf(stderr, "simulated runtime: %u misuses, %u left\n", misuses, leaks);
}
