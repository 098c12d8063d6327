/* trace.h - the timeline of migrations (TERRACE_TRACE).
 * May call: core.h. */
#ifndef TERRACE_LIB_TRACE_H
#define TERRACE_LIB_TRACE_H

#include "core.h"

enum trace_kind { TRACE_MOVE, TRACE_STALL, TRACE_FAULT, TRACE_STEP };

/* What is noted on the spot, to be written by a thread of its own. */
struct trace_event {
    uint64_t asked, began, ended; /* nanoseconds */
    uint64_t bytes;               /* moved; of a step: its number */
    uint32_t thread;              /* the system's number of who stalled */
    unsigned char kind, priority, from, to;
    bool spoiled;
    char label[87];
};

/* Begins one where TERRACE_TRACE asks for it. That it cannot be written is logged,
 * and no failure. */
void trace_open(struct terrace *m);
/* The process ends: what has been noted is written, what comes later is not. */
void trace_end(struct terrace *m);
/* The same, and frees it; nobody notes anything any more. */
void trace_close(struct terrace *m);

/* Notes an event; the label may go away afterwards. */
void trace_note_locked(struct trace *trace, const struct trace_event *e, const char *label);
void trace_step_locked(struct terrace *m);

/* Events that were not written, as there were too many at once or the file could not
 * take them. */
uint64_t trace_lost(const struct trace *trace);
uint64_t trace_written(const struct trace *trace);

#endif
