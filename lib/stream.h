/* stream.h - uses of a copy that go on in a stream after its release.
 * May call: core.h, acquire.h, the backend's table. */
#ifndef TERRACE_LIB_STREAM_H
#define TERRACE_LIB_STREAM_H

#include "acquire.h"
#include "core.h"

enum { STREAM_BATCH = 32 }; /* events that are asked for at a time */

static inline bool tier_has_streams(const struct tier *tier)
{
    return tier->backend->record != NULL;
}

/* Whether something still goes on that an acquire in this mode cannot be ordered
 * after by a stream, but has to wait for: uses of other tiers' copies, and of this
 * one where the host is to use it. */
bool stream_excludes_locked(const struct copy *c, unsigned mode, const void *stream);
/* A copy is being changed in a stream. */
bool stream_writes_locked(const struct terrace_tensor *t);

/* Whether the stream of the request can be used on the tiers of its entries. Gives
 * up the lock; the entries are pinned. Errors: as terrace_backend.follow. */
int stream_check_locked(const struct request *q);
/* Whether the bytes are on their way to the copy in such a manner that the stream can wait
 * for them in the host's place. */
bool stream_can_wait_locked(const struct copy *c, const void *stream);
/* Has the stream wait for all that the request's uses come after. Likewise. */
int stream_follow_locked(const struct request *q);
/* The calling thread's pin becomes a use by the stream: to be called before it goes.
 * Gives up the lock. Errors: as terrace_backend.record. */
int stream_release_locked(struct copy *c, void *stream);

/* What is under way, oldest first, to be asked for without the lock. */
struct stream_poll {
    struct use *use[STREAM_BATCH];
    int result[STREAM_BATCH];
    unsigned n;
};

/* By the thread of the tier's lane: what to ask for, and in how many nanoseconds,
 * -1: nothing is under way. */
int64_t stream_poll_locked(struct tier *tier, struct stream_poll *p);
void stream_poll(struct tier *tier, struct stream_poll *p);
void stream_polled_locked(struct tier *tier, const struct stream_poll *p);
/* Somebody waits for what is under way in the tier. */
void stream_hurry_locked(struct tier *tier);

#endif
