/* live_page.h - the page by which other processes see what a manager does; for
 * library and command.
 * May call: libc.
 *
 * It is a memory file named LIVE_FILE, which is among the open files of the process in
 * /proc: so only who may look into the process can read it, nobody else can write it,
 * and it is gone with the process. `sequence` is odd while the rest is being changed.
 * A reader believes nothing that it has not checked: see live_page_check(). */
#ifndef TERRACE_LIB_LIVE_PAGE_H
#define TERRACE_LIB_LIVE_PAGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define LIVE_FILE "terrace"
#define LIVE_MAGIC "terrace\n"

enum { LIVE_VERSION = 1, LIVE_TIERS = 16, LIVE_TENSORS = 16, LIVE_NAME = 40, LIVE_TEXT = 160 };

struct live_tier {
    char name[LIVE_NAME], kind[LIVE_NAME], vendor[LIVE_NAME], tier_class[16], engine[32];
    char engine_reason[LIVE_TEXT], location[LIVE_TEXT], limit_reason[LIVE_TEXT];
    uint64_t limit, used, peak, dirty, tensors, in_bytes, out_bytes, staging, byte_seconds;
};

/* A tensor, or one allocation of address-stable memory. */
struct live_tensor {
    char label[88];
    uint64_t bytes, in_memory; /* as asked for; of it in memory tiers */
    uint32_t tiers;            /* a bit per tier with a valid copy */
    uint32_t role;
    uint64_t stable;           /* it is such an allocation */
};

struct live_page {
    char magic[8];
    uint32_t version, bytes; /* of this struct */
    int32_t process;         /* the process's own number for itself */
    uint32_t manager;        /* which of the process's it is */
    _Atomic uint32_t sequence;
    uint32_t tiers;
    uint64_t tensors_shown;
    char library[16];        /* its version */
    uint64_t opened, updated; /* CLOCK_MONOTONIC, in nanoseconds */
    uint64_t tensors, tensor_bytes, steps, acquires, hits, stalls, stall_ns, prefetches, prefetch_hits, evictions,
        clean_evictions, writeback_bytes, fill_bytes, file_bytes, cpu_copy_bytes, wasted_bytes, io_errors, corrupt,
        faults;
    uint64_t route[LIVE_TIERS][LIVE_TIERS]; /* bytes from, to */
    struct live_tier tier[LIVE_TIERS];
    struct live_tensor tensor[LIVE_TENSORS]; /* the biggest, biggest first */
};

/* Ends a text that came from outside, and takes from it what a terminal might obey. */
static inline void live_text_clean(char *text, size_t room)
{
    text[room - 1] = 0;
    for (unsigned char *c = (unsigned char *)text; *c; c++)
        if (*c < ' ' || *c == 0x7f)
            *c = '?';
}

/* Makes a copy of a page, of which `bytes` were read, fit to be shown. NULL, or why it
 * cannot be. */
static inline const char *live_page_check(struct live_page *p, size_t bytes)
{
    if (bytes < offsetof(struct live_page, process) || memcmp(p->magic, LIVE_MAGIC, sizeof p->magic) != 0)
        return "it is no page of terrace's";
    if (p->version != LIVE_VERSION)
        return "it is of another version of terrace: use the command that came with that";
    if (bytes != sizeof *p || p->bytes != sizeof *p || p->tiers > LIVE_TIERS || p->tensors_shown > LIVE_TENSORS)
        return "it is damaged";
    live_text_clean(p->library, sizeof p->library);
    for (int i = 0; i < LIVE_TIERS; i++) {
        struct live_tier *t = &p->tier[i];
        live_text_clean(t->name, sizeof t->name);
        live_text_clean(t->kind, sizeof t->kind);
        live_text_clean(t->vendor, sizeof t->vendor);
        live_text_clean(t->tier_class, sizeof t->tier_class);
        live_text_clean(t->engine, sizeof t->engine);
        live_text_clean(t->engine_reason, sizeof t->engine_reason);
        live_text_clean(t->location, sizeof t->location);
        live_text_clean(t->limit_reason, sizeof t->limit_reason);
    }
    for (int i = 0; i < LIVE_TENSORS; i++)
        live_text_clean(p->tensor[i].label, sizeof p->tensor[i].label);
    return NULL;
}

#endif
