/* stream.h - streams, events and work of the simulated accelerator. Inside the
 * engine and for the tables over it; see engine.h for the rules. */
#ifndef TERRACE_TESTS_SIM_STREAM_H
#define TERRACE_TESTS_SIM_STREAM_H

#include "area.h"
#include "engine.h"

/* The end of what was in a stream when an event was recorded. Counted: the
 * event has one, and so does all work that waits for it or reaches it. */
struct mark {
    unsigned refs;
    bool done;
    uint64_t at; /* when, in ns */
    uint64_t stream;       /* in a capture: the handle of the stream, */
    unsigned nodes;        /* and what it had put into the capture */
};

struct event {
    uint64_t handle;
    struct context *context;
    bool timing, blocking;
    struct mark *mark;       /* NULL: never recorded */
    struct capture *capture; /* recorded in it; only compared, NULL: none */
};

/* Work for one thread, in order: a stream's own, or shared by several. */
struct queue {
    pthread_cond_t more;
    struct work *first, **last;
    struct work *running;
    unsigned streams; /* that use it */
    bool shared;
    struct queue *next; /* in the list of all */
};

struct capture {
    uint64_t thread;
    int mode; /* CAPTURE_... */
    bool invalid;
    bool joined; /* all its streams are, as seen at the end */
    unsigned nodes;
    struct stream *origin; /* where it began */
};
enum { CAPTURE_GLOBAL, CAPTURE_THREAD, CAPTURE_RELAXED };

struct stream {
    uint64_t handle; /* 0: a default stream */
    unsigned refs;   /* itself, until destroyed, and work */
    bool destroyed;
    struct context *context;
    bool blocking; /* is ordered with the default stream */
    int priority;
    struct queue *queue;
    uint64_t asked, done; /* pieces of work */
    struct capture *capture;
    unsigned nodes; /* it has put into the capture */
    bool joined;    /* another stream of the capture waits for all of them */
};

/* Work that must have been done before. */
struct before {
    struct stream *stream;
    uint64_t done;
};

struct work {
    struct work *next;
    int kind; /* SIM_COPY, ... */
    struct stream *stream;
    struct before *before;
    unsigned n_before;
    const char *waiting; /* what for, for people */
    struct use *uses;    /* of a kernel */
    union {
        struct {
            uint64_t to, from, bytes;
            void *aside; /* what was copied aside when it was asked for; freed at the end */
            int direction;
            bool to_pageable, from_pageable;
        } copy;
        struct {
            uint64_t at, bytes;
            uint32_t value;
            unsigned width; /* bytes of the value */
        } fill;
        struct {
            uint64_t at, value;
            unsigned width;
            int how; /* WAIT_... */
        } value;
        struct {
            void (*function)(void *);
            void *arg;
            uint64_t ns;
        } call;
        struct mark *mark;
        uint64_t area; /* the address of an ordered allocation */
    };
};
enum { WAIT_REACHED, WAIT_EQUAL, WAIT_AND, WAIT_NOR };

/* ---- streams.c ------------------------------------------------------------- */

int stream_create(struct context *context, bool blocking, int priority, uint64_t *handle);
int stream_destroy(uint64_t handle);
/* What a handle stands for in a context, 0: its default stream. */
int stream_find_locked(struct context *context, uint64_t handle, struct stream **out);
/* Puts work at the end of a stream: taken over, in any case. A stream being
 * captured only counts it. */
int stream_put_locked(struct stream *stream, const struct work *work);
/* The same, and waits until it is done. */
int stream_do_locked(struct stream *stream, const struct work *work);
int stream_query(struct context *context, uint64_t handle);
int stream_wait(struct context *context, uint64_t handle);
int stream_wait_all(struct context *context);
/* Waits for all work of the device, NULL: of all, where the setting SYNC has this bit. */
void stream_settle_locked(struct context *context, int64_t bit);
/* The same in any case. */
int stream_drain_locked(struct context *context);
/* What each queue waits for, for people. */
const char *stream_stuck_locked(void);
void stream_drop_locked(struct stream *stream); /* a reference */
unsigned streams_leave_locked(const struct context *context); /* destroys all; how many */

/* ---- work.c ------------------------------------------------------------------ */

/* Does the work of one piece, under the lock, which it may give up meanwhile. */
void work_do_locked(struct work *work);
void work_clear_locked(struct work *work);
/* Fails the device with what happened to it. */
void work_fail_locked(struct device *device, int error);

/* ---- copies.c: checks at the call, then work --------------------------------- */

enum { SIDE_ANY, SIDE_HOST, SIDE_DEVICE };
struct copy {
    uint64_t to, from, bytes;
    int to_side, from_side; /* SIDE_..., as the call says */
    bool wait;              /* the call returns when it is done */
};
int copy_put(struct context *context, uint64_t stream, const struct copy *copy);
int fill_put(struct context *context, uint64_t stream, uint64_t at, uint32_t value, unsigned width,
             uint64_t count, bool wait);
int value_put(struct context *context, uint64_t stream, int kind, uint64_t at, uint64_t value,
              unsigned width, int how);
int call_put(struct context *context, uint64_t stream, int kind, void (*function)(void *), void *arg,
             uint64_t ns);

/* ---- events.c ------------------------------------------------------------------- */

int event_create(struct context *context, bool timing, bool blocking, uint64_t *handle);
int event_destroy(uint64_t handle);
int event_record(struct context *context, uint64_t event, uint64_t stream);
int event_query(uint64_t event);
int event_wait(uint64_t event);
int event_follow(struct context *context, uint64_t stream, uint64_t event);
int event_elapsed(float *ms, uint64_t from, uint64_t to);
void mark_drop_locked(struct mark *mark);
unsigned events_leave_locked(const struct context *context); /* destroys all; how many */

/* ---- captures.c -------------------------------------------------------------------- */

int capture_begin(struct context *context, uint64_t stream, int mode);
int capture_end(struct context *context, uint64_t stream, uint64_t *graph);
int capture_status(struct context *context, uint64_t stream, int *status); /* 0, 1 active, 2 invalid */
int graph_destroy(uint64_t graph);
int graph_nodes(uint64_t graph, unsigned *nodes);
/* Refuses what cannot be done to a stream being captured, which ends it. */
int capture_refuse_locked(struct stream *stream);
/* Refuses calls that are not safe while certain captures go on. */
int capture_refuse_unsafe_locked(void);
/* Refuses the default stream while one that is ordered with it is captured. */
int capture_refuse_default_locked(const struct context *context);
/* Ends, without a graph, a capture that began in a stream that goes. */
void capture_leave_locked(struct stream *stream);
/* A stream waits for an event of a capture, and so becomes a part of it. */
int capture_join_locked(struct stream *stream, const struct event *event);
/* Counts work that is captured instead of done. */
int capture_put_locked(struct stream *stream, const struct work *work);
/* Sets how far this thread is refused unsafe calls; gives what it was before. */
int capture_exchange(int mode);

/* ---- memory.c, pools.c -------------------------------------------------------------- */

int memory_add_locked(struct device *device, uint64_t bytes, bool ordered, struct area **out);
void memory_remove_locked(struct area *area);
int pool_alloc(struct context *context, uint64_t bytes, uint64_t stream, uint64_t *address);
int pool_free(struct context *context, uint64_t address, uint64_t stream);

#endif /* TERRACE_TESTS_SIM_STREAM_H */
