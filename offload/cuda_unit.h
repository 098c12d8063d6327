/* cuda_unit.h - what the files of the NVIDIA tier share.
 *
 * cuda.c is the backend, and says how it works; cuda_memory.c has its memory,
 * cuda_place.c what moves behind addresses that stay,
 * cuda_pin.c the host memory that the driver knows, cuda_copy.c the copies,
 * cuda_stream.c the users' streams, cuda_driver.c the driver.
 * May call: cuda_driver.h, terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_CUDA_UNIT_H
#define TERRACE_OFFLOAD_CUDA_UNIT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#include "cuda_driver.h"
#include "terrace_backend.h"

enum {
    CUDA_PAGE = 4096,
    CUDA_IO_CHUNK = 4 << 20,
    CUDA_IO_DEPTH = 32,
    CUDA_QUEUES = 4,       /* two per direction */
    CUDA_SPARE_EVENTS = 64, /* kept for the next */
    CUDA_WINDOW = 16       /* granules that move at once */
};

/* What there is behind a granule of a reservation. */
typedef _Atomic uint32_t cuda_granule;
#define CUDA_PAGES_MASK UINT32_C(0x1fffffff) /* its committed pages; 0: nothing is there */
#define CUDA_ADRIFT UINT32_C(0x20000000)     /* its memory is not at its address, see cuda_place.c */
#define CUDA_PLACED UINT32_C(0x40000000)     /* the core chose the kind of memory */
#define CUDA_IN_HOST UINT32_C(0x80000000)    /* it is host memory */

/* Address space, or, where that cannot be had without memory, memory. */
struct cuda_range {
    struct cuda_range *next;
    uint64_t base, bytes;
    cuda_address given; /* what the driver gave, where it is memory: base is that or behind it */
    cuda_granule granule[]; /* none where it is memory */
};

/* Copies in one of our streams, in its order. */
struct cuda_queue {
    cuda_stream stream;
    cuda_event end; /* of its last batch */
    terrace_io *head, *tail;
    uint64_t sent;  /* batches with an end that will be told */
    uint64_t bytes; /* of the batch that has no end yet */
    bool open;      /* there is one */
};

struct cuda_signal; /* what the driver's thread and wake() change, see cuda_copy.c */

struct cuda_unit {
    const terrace_host *host;
    int index;
    pid_t pid;
    cuda_device device;
    cuda_context context;
    char model[80], name[96]; /* "NVIDIA H100 80GB HBM3", "cuda:0 (the same)" */
    /* memory */
    bool virtual_memory, rdma;
    int node;               /* where host memory for it comes from, */
    unsigned host_kind;     /* or CUDA_ON_HOST: from anywhere; 0: it can use none at its addresses */
    uint64_t granule;
    uint64_t device_room;   /* beyond that, granules come from host memory */
    uint64_t host_room;     /* bytes of those; 0: none */
    pthread_mutex_t mapping; /* for commit and decommit; also covers the next three */
    uint64_t in_device, in_host, placed_in_host; /* the last: whatever host_room is */
    pthread_mutex_t placing; /* for what follows; taken before mapping, held while bytes move */
    cuda_stream mover;
    cuda_address window;    /* where memory is that is about to change places; 0: not reserved */
    struct cuda_adrift *adrift; /* what has no address; also under mapping */
    pthread_mutex_t lock;   /* for ranges and events; may be taken under mapping; nothing is
                             * called under it */
    struct cuda_range *ranges;
    cuda_event spare[CUDA_SPARE_EVENTS];
    unsigned spares;
    /* copies; by the one thread that submits and waits */
    struct cuda_signal *signal;
    struct cuda_queue queue[CUDA_QUEUES];
    unsigned turn[2];       /* which of the two of a direction is next */
    terrace_io *finished, **finished_end;
    unsigned in_flight;     /* taken and not handed back */
};

/* Sets the failure sentence: the device, what was tried, what the driver said, and
 * a remedy. Its value is cuda_error(r). */
int cuda_fail(const struct cuda_unit *u, cuda_result r, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* ---- cuda_memory.c ---- */

/* Finds out how memory is managed; says so for people. */
cuda_result cuda_memory_open(struct cuda_unit *u, char *reason, size_t len);
void cuda_memory_close(struct cuda_unit *u); /* inside a visit, or in a forked child */
/* Whether there is memory behind all of a part of the tier. */
bool cuda_memory_holds(struct cuda_unit *u, uint64_t address, uint64_t bytes);
int  cuda_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base);
void cuda_release(void *unit, uint64_t base, uint64_t bytes);
int  cuda_commit(void *unit, uint64_t address, uint64_t bytes);
void cuda_decommit(void *unit, uint64_t address, uint64_t bytes);
int  cuda_available(void *unit, uint64_t *bytes);

/* The range that has all of a part, or NULL. */
struct cuda_range *cuda_range_find(struct cuda_unit *u, uint64_t address, uint64_t bytes);
cuda_property cuda_property_of(const struct cuda_unit *u, bool in_host);
/* Where a granule like that counts, under mapping. */
uint64_t *cuda_books_of(struct cuda_unit *u, uint32_t granule);

/* ---- cuda_place.c ---- */

int  cuda_place(void *unit, uint64_t address, uint64_t bytes, int where, uint64_t *done);
/* Gives back the memory that should be at an address and is not; under mapping. */
bool cuda_adrift_drop(struct cuda_unit *u, uint64_t address);
void cuda_places_close(struct cuda_unit *u); /* as cuda_memory_close(), and after it */

/* ---- cuda_pin.c ---- */

/* Tells ranges that are registered apart: a number, 0 for memory that is not. */
uint64_t cuda_pinned(const void *address, uint64_t bytes);
int  cuda_pin(void *unit, void *address, uint64_t bytes);
void cuda_unpin(void *unit, void *address, uint64_t bytes);

/* ---- cuda_copy.c ---- */

cuda_result cuda_copies_open(struct cuda_unit *u);
void cuda_copies_close(struct cuda_unit *u); /* as cuda_memory_close() */
int  cuda_submit(void *unit, terrace_io *const *list, unsigned n);
int  cuda_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns);
void cuda_wake(void *unit);
void cuda_explain(void *unit, const terrace_io *io, char *buf, size_t len);

/* ---- cuda_stream.c ---- */

void cuda_streams_close(struct cuda_unit *u); /* as cuda_memory_close() */
int  cuda_record(void *unit, void *stream, void **event);
int  cuda_passed(void *unit, void *event);
int  cuda_follow(void *unit, void *stream, void *event);
void cuda_forget(void *unit, void *event);

#endif
