/* acquire.h - the entries of an acquire on its way, and the tiers they take.
 * May call: core.h, small.h. */
#ifndef TERRACE_LIB_ACQUIRE_H
#define TERRACE_LIB_ACQUIRE_H

#include "core.h"
#include "small.h"

/* One entry of the list on its way. */
struct entry {
    struct terrace_tensor *tensor; /* that migrates */
    struct small *small;           /* the slice of it that is wanted, or NULL */
    terrace_tier tier;  /* that was asked for */
    unsigned mode;
    struct copy *copy;    /* on the tier that was chosen */
    struct copy *instead; /* on another that has room, or NULL */
    unsigned moves;       /* how often it went to another */
    bool hit;
    bool follows;      /* the stream has been told to wait for its bytes */
    void *address;     /* once it has succeeded */
};

struct request {
    struct terrace *m;
    struct entry *entry;
    size_t n;
    bool wait, nowait;
    void *stream;        /* that the bytes will be used in, TERRACE_HOST_SYNC: none */
    bool moves;          /* an entry's tier has no memory, but another has room */
    uint64_t start;      /* when it began to wait, 0: it has not */
    struct copy *hollow; /* another acquire's, for which this one gave way */
};

static inline const char *entry_name(const struct entry *e)
{
    return e->small ? small_name(e->small) : tensor_name(e->tensor);
}

/* ---- choose.c ---- */

/* The tier of every entry, unless the list excludes itself. Sets the sentence. */
int choose_all_locked(struct request *q);
/* The tier of an entry has no memory: finds another that matches and has room, to go
 * there at the next choose_moved_locked(). False: there is none, or it has been sent
 * about enough. */
bool choose_other_locked(struct entry *e);
/* Has such entries go elsewhere, while nothing of the list is pinned; a small tensor
 * whose group others use stays. Errors: as choose_all_locked. */
int choose_moved_locked(struct request *q);

#endif
