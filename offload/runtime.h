/* runtime.h - vendors' runtime libraries as tiers: what a dialect says of one, and
 * what all of them share.
 *
 * A runtime is a library of a vendor's that is loaded with dlopen() when a manager
 * is opened. It has devices, of which one is current in each thread, memory, streams
 * and events. A dialect (cudalike.c) knows its functions' names, the order of their
 * arguments, and the values of its enumerations; everything else is done once, in
 * runtime.c (loading, devices), runtime_test.c (a device is tried out when it is
 * opened), runtime_memory.c, runtime_pages.c, runtime_copy.c, runtime_peer.c and
 * runtime_stream.c.
 *
 * What is called `code` is a value of the vendor's; 0 is success with all of them.
 * May call: terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_RUNTIME_H
#define TERRACE_OFFLOAD_RUNTIME_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/types.h>

#include "terrace_backend.h"

enum {
    RUNTIME_MOST = 8, /* tiers of a kind; leaves some of the core's for others */
    RUNTIME_PAGE = 4096,
    RUNTIME_GRANULE = 2 << 20,
    RUNTIME_IO_CHUNK = 4 << 20,
    RUNTIME_IO_DEPTH = 32,
    RUNTIME_SPARE_EVENTS = 64 /* kept for the next */
};

/* Where a copy goes; the first two: which of a unit's streams it is put into. */
enum { RUNTIME_IN, RUNTIME_OUT, RUNTIME_WITHIN, RUNTIME_WAYS };

struct runtime;

/* What was current in a thread before a visit. */
struct runtime_scope {
    void *context;
    int device, mode;
    bool device_set, mode_set;
};

/* A dialect. All are called inside a visit, but for the first three and the last. */
struct runtime_calls {
    /* Finds the functions, by runtime_symbol(). */
    void (*find)(struct runtime *rt, void *library);
    /* Starts it, and counts the devices. */
    int (*start)(struct runtime *rt, int *devices);
    /* A visit: makes a device current in this thread; and what was so before. Where the
     * first fails, nothing has changed. */
    int (*enter)(struct runtime *rt, int device, struct runtime_scope *scope);
    void (*leave)(struct runtime *rt, const struct runtime_scope *scope);
    /* The device's name, and its place on the bus or "". */
    int (*describe)(struct runtime *rt, int device, char *model, size_t model_len, char *bus, size_t bus_len);

    int (*memory_info)(struct runtime *rt, size_t *unused, size_t *all);
    int (*allocate)(struct runtime *rt, void **p, size_t bytes);
    int (*release)(struct runtime *rt, void *p);
    /* Only where find() has set `registers`. */
    int (*pin)(struct runtime *rt, void *p, size_t bytes);
    int (*unpin)(struct runtime *rt, void *p);
    /* Address space, and memory behind a part of it; only where find() has set `maps`. */
    int (*reserve)(struct runtime *rt, void **p, size_t bytes);
    int (*unreserve)(struct runtime *rt, void *p);
    int (*map)(struct runtime *rt, int device, void *p, size_t bytes, void **memory);
    int (*unmap)(struct runtime *rt, void *p, void *memory);
    int (*copy)(struct runtime *rt, void *to, const void *from, size_t bytes, int way, void *stream);
    int (*fill)(struct runtime *rt, void *p, int value, size_t bytes, void *stream);
    /* Between devices; only where find() has set `peers`. Lets `device`, which is
     * current, use the other's memory; gives a code of the vendor's where it cannot. */
    int (*peer_open)(struct runtime *rt, int device, int other);
    int (*peer_copy)(struct runtime *rt, void *to, int device, const void *from, int other, size_t bytes,
                     void *stream);

    int (*stream_create)(struct runtime *rt, void **stream);
    int (*stream_destroy)(struct runtime *rt, void *stream);
    int (*stream_synchronize)(struct runtime *rt, void *stream);
    /* Whether something may be put into it. */
    int (*stream_check)(struct runtime *rt, void *stream);
    int (*stream_follow)(struct runtime *rt, void *stream, void *event);
    int (*event_create)(struct runtime *rt, void **event);
    int (*event_destroy)(struct runtime *rt, void *event);
    int (*event_record)(struct runtime *rt, void *event, void *stream);
    int (*event_query)(struct runtime *rt, void *event, bool *passed);

    /* A code as a TERRACE_E... code: here and nowhere else. */
    int (*error)(const struct runtime *rt, int code);
    /* The vendor's name and text for it: "hipErrorOutOfMemory (out of memory)". */
    void (*text)(const struct runtime *rt, int code, char *buf, size_t len);
};

struct runtime_pin;

/* A runtime: what it is, then what has become of it. */
struct runtime {
    const struct runtime_calls *call;
    const char *kind;        /* "hip" */
    const char *maker;       /* "AMD" */
    const char *vendor;      /* "amd", for placement rules */
    const char *api;         /* "HIP" */
    const char *library[6];  /* names, in the order in which they are tried */
    const char *folder[4];   /* where they are, too; "$NAME/lib" begins with a variable */
    bool folders_only;       /* the names are others', too, elsewhere */
    const char *node[3];     /* files one of which is there where a device is; NULL: not known */
    const char *limit;       /* "TERRACE_LIMIT_HIP" */
    const char *chooses;     /* "HIP_VISIBLE_DEVICES": which devices there are */
    const char *model;       /* what the devices' names have in them; NULL: any */
    bool limited;            /* one allocation may be limited to less than there is */

    pthread_mutex_t lock;    /* for loading; protects what follows */
    pid_t owner;             /* who started it; 0: nobody */
    int devices;             /* then; constant from then on */
    char loaded[160];        /* the library's name */
    bool registers;          /* it registers host memory; set by find() */
    bool maps;               /* it has virtual memory management; the same */
    bool peers;              /* it copies from device to device; the same */
    char missing[64];        /* the function that it has not */
    pthread_mutex_t pinning; /* held while the runtime registers; protects the list */
    struct runtime_pin *pins;
};

/* What there is behind a granule of addresses. */
struct runtime_granule {
    void *memory;           /* NULL: nothing */
    _Atomic uint32_t pages; /* that are committed */
};

/* Memory that the core has reserved, or addresses: base is what the runtime gave, or
 * behind it. */
struct runtime_range {
    struct runtime_range *next;
    uint64_t base, bytes;
    void *given;
    struct runtime_granule granule[]; /* none where it is memory */
};

/* Copies in one of a unit's own streams, in its order, by batches: those of a submit, or
 * as many of them as make a chunk. */
struct runtime_queue {
    void *stream;
    void *end[RUNTIME_IO_DEPTH]; /* events: of batch N the Nth, modulo */
    terrace_io *head, *tail;
    uint64_t batch;              /* the number of the next */
    uint64_t bytes;              /* of it, so far */
};

struct runtime_unit {
    const terrace_host *host;
    struct runtime *rt;
    int index;
    pid_t pid;
    char model[80], name[112]; /* "AMD Instinct MI210", "hip:0 (AMD Instinct MI210)" */

    bool maps;               /* memory is put behind addresses, by granules */
    char maps_not[120];      /* why it is not, for people; "" */
    pthread_mutex_t mapping; /* for what is behind granules */
    pthread_mutex_t lock;    /* for ranges and events; nothing is called under it */
    struct runtime_range *ranges;
    void *spare[RUNTIME_SPARE_EVENTS];
    unsigned spares;

    /* copies; by the one thread that submits and waits */
    struct runtime_queue queue[2]; /* RUNTIME_IN, RUNTIME_OUT */
    terrace_io *finished, **finished_end;
    unsigned in_flight;            /* taken and not handed back */
    int64_t pause;                 /* ns until it is asked again whether they are done */

    pthread_mutex_t waking; /* for what follows; taken by itself */
    pthread_cond_t woken;
    bool wake;
};

/* ---- runtime.c ---- */

/* Finds a function of a prefix and a name, for find(); the first that is required and
 * not there stays in `missing`. */
void runtime_symbol(struct runtime *rt, void *library, const char *prefix, const char *name, bool required, void *to);

/* Makes the unit's device current in this thread. Fails with a code of our own in a
 * forked child, which has to leave the runtime alone. */
enum { RUNTIME_FORKED = -0x7e44ace };
int  runtime_enter(const struct runtime_unit *u, struct runtime_scope *scope);
/* The same to give something back, which would be lost otherwise: an error that may
 * pass gets a second try. */
int  runtime_enter_again(const struct runtime_unit *u, struct runtime_scope *scope);
void runtime_leave(const struct runtime_unit *u, const struct runtime_scope *scope);
/* Also for that: true where the call succeeds, or does so when repeated. */
#define RUNTIME_UNDO(call) ((call) == 0 || (call) == 0)

/* A code as a TERRACE_E... code, RUNTIME_FORKED, too. */
int  runtime_error(const struct runtime_unit *u, int code);
/* Sets the failure sentence: the device, what was tried, what the runtime said, and a
 * remedy. Its value is runtime_error(). */
int  runtime_fail(const struct runtime_unit *u, int code, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

int  runtime_count(struct runtime *rt, const terrace_host *host);
int  runtime_open(struct runtime *rt, const terrace_host *host, int index, terrace_unit_info *info, void **unit);
void runtime_close(void *unit);

/* ---- runtime_test.c ---- */

/* Inside a visit: whether memory, fills and copies of the device do what they should,
 * and whether virtual memory does. 0, or a TERRACE_E... code with the failure sentence. */
int  runtime_test(struct runtime_unit *u);

/* ---- runtime_peer.c ---- */

int  runtime_peer(void *unit, void *from);
/* Puts a copy from another device's memory into the stream, inside a visit: a code. */
int  runtime_peer_copy(struct runtime_unit *u, const terrace_io *io, void *stream);

/* ---- runtime_pages.c ---- */

int  runtime_pages_reserve(const struct runtime_unit *u, struct runtime_range *range); /* a code */
bool runtime_pages_hold(const struct runtime_range *range, uint64_t address, uint64_t bytes);
int  runtime_pages_commit(struct runtime_unit *u, struct runtime_range *range, uint64_t address, uint64_t bytes);
void runtime_pages_decommit(struct runtime_unit *u, struct runtime_range *range, uint64_t address, uint64_t bytes);
int  runtime_pages_free(struct runtime_unit *u, struct runtime_range *range); /* 0: all was given back */

/* ---- runtime_memory.c ---- */

void runtime_memory_close(struct runtime_unit *u); /* inside a visit, or in a forked child */
/* Whether there is memory behind all of a part of the tier. */
bool runtime_memory_holds(struct runtime_unit *u, uint64_t address, uint64_t bytes);
int  runtime_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base);
void runtime_release(void *unit, uint64_t base, uint64_t bytes);
int  runtime_commit(void *unit, uint64_t address, uint64_t bytes);
void runtime_decommit(void *unit, uint64_t address, uint64_t bytes);
int  runtime_available(void *unit, uint64_t *bytes);
int  runtime_pin(void *unit, void *address, uint64_t bytes);
void runtime_unpin(void *unit, void *address, uint64_t bytes);

/* ---- runtime_copy.c ---- */

int  runtime_copies_open(struct runtime_unit *u);
void runtime_copies_close(struct runtime_unit *u); /* as runtime_memory_close() */
int  runtime_submit(void *unit, terrace_io *const *list, unsigned n);
int  runtime_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns);
void runtime_wake(void *unit);
void runtime_explain(void *unit, const terrace_io *io, char *buf, size_t len);

/* ---- runtime_stream.c ---- */

void runtime_streams_close(struct runtime_unit *u); /* as runtime_memory_close() */
int  runtime_record(void *unit, void *stream, void **event);
int  runtime_passed(void *unit, void *event);
int  runtime_follow(void *unit, void *stream, void *event);
void runtime_forget(void *unit, void *event);

/* The table of a kind's backend, and all that knows its runtime. */
#define RUNTIME_BACKEND(backend_kind, runtime)                                             \
    static int backend_kind##_count(const terrace_host *host)                              \
    {                                                                                      \
        return runtime_count(runtime, host);                                               \
    }                                                                                      \
    static int backend_kind##_open(const terrace_host *host, int index, terrace_unit_info *info, \
                                   void **unit)                                            \
    {                                                                                      \
        return runtime_open(runtime, host, index, info, unit);                             \
    }                                                                                      \
    static const terrace_backend backend_kind##_backend = {                                \
        .abi = TERRACE_BACKEND_ABI,                                                        \
        .size = sizeof(terrace_backend),                                                   \
        .name = #backend_kind,                                                             \
        .tier_class = TERRACE_CLASS_DEVICE,                                                \
        .count = backend_kind##_count,                                                     \
        .open = backend_kind##_open,                                                       \
        .close = runtime_close,                                                            \
        .reserve = runtime_reserve,                                                        \
        .release = runtime_release,                                                        \
        .commit = runtime_commit,                                                          \
        .decommit = runtime_decommit,                                                      \
        .submit = runtime_submit,                                                          \
        .wait = runtime_wait,                                                              \
        .wake = runtime_wake,                                                              \
        .explain = runtime_explain,                                                        \
        .pin = runtime_pin,                                                                \
        .unpin = runtime_unpin,                                                            \
        .available = runtime_available,                                                    \
        .record = runtime_record,                                                          \
        .passed = runtime_passed,                                                          \
        .follow = runtime_follow,                                                          \
        .forget = runtime_forget,                                                          \
        .peer = runtime_peer,                                                              \
    };                                                                                     \
    TERRACE_BACKEND_BUILTIN(backend_kind##_backend)

#endif
