/* moved.c - what has moved between tiers, and who waited for it: the one place where
 * that is counted.
 *
 * May call: core.h, trace.h. */
#include "moved.h"

#include <unistd.h>

#include "mover.h"
#include "trace.h"

void moved_locked(struct tier *from, struct tier *to, uint64_t bytes, const struct move *move)
{
    struct terrace *m = from->manager;
    struct route *route = &m->route[from - m->tier][to - m->tier];
    from->out_bytes += bytes;
    to->in_bytes += bytes;
    route->bytes += bytes;
    route->moves += bytes > 0;
    if (!m->trace)
        return;
    struct trace_event e = {.kind = TRACE_MOVE, .asked = move->asked, .began = move->began, .ended = clock_ns(),
                            .bytes = bytes, .priority = move->priority, .spoiled = move->spoiled,
                            .from = (unsigned char)(from - m->tier), .to = (unsigned char)(to - m->tier)};
    if (!e.began)
        e.began = e.ended;
    trace_note_locked(m->trace, &e, move->label);
}

void stalled_locked(struct terrace *m, uint64_t since, const char *label, bool fault)
{
    uint64_t now = clock_ns();
    m->stats.stall_ns += now - since;
    m->stats.stalls++;
    if (!m->trace)
        return;
    struct trace_event e = {.kind = fault ? TRACE_FAULT : TRACE_STALL, .began = since, .ended = now,
                            .thread = fault ? 0 : (uint32_t)gettid()};
    trace_note_locked(m->trace, &e, label);
}
