/* terrace_backend.h - what a tier backend provides, and what it may ask for.
 *
 * A backend is one `static const terrace_backend`: a table of functions over
 * "units" (one device, one NUMA node, one set of spill folders). The core
 * copies and validates the table once and fills what is missing with defaults;
 * entries are only ever appended, so a table compiled against an older header
 * keeps loading (`size` tells how much of it there is).
 *
 * The core allocates: a backend only hands out address space (reserve), puts
 * physical memory or disk blocks behind parts of it (commit) and takes them
 * away (decommit). It moves bytes between its tier and memory the CPU can
 * address (submit, wait).
 *
 * Threads: `submit` and `wait` of one unit are called by one thread at a time;
 * `wake` and all other functions by any thread, also concurrently.
 * Errors: functions return 0 or a count, or a negative TERRACE_E... code, and
 * map the foreign API's codes in one place. Nothing here may call back into
 * terrace's public API.
 */
#ifndef TERRACE_BACKEND_H
#define TERRACE_BACKEND_H

#include "terrace.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TERRACE_BACKEND_ABI 1u

enum { TERRACE_CLASS_DEVICE = 1, TERRACE_CLASS_HOST = 2, TERRACE_CLASS_DISK = 3 };

/* Capabilities. */
enum {
    TERRACE_CAP_CPU = 1 /* the tier's addresses are pointers the CPU may use */
};

/* Flags of reserve. */
enum {
    TERRACE_RESERVE_HUGE = 1 /* will be used in whole granules: large pages are welcome */
};

/* Log levels, as TERRACE_LOG names them. */
enum {
    TERRACE_LOG_OFF,
    TERRACE_LOG_ERROR,
    TERRACE_LOG_WARN,
    TERRACE_LOG_INFO,
    TERRACE_LOG_DEBUG
};

/* Services the core hands to a backend; valid as long as the unit is open. */
typedef struct terrace_host {
    size_t size;
    void *context;
    /* The effective value of a setting ("NVME_PATH", "IO"), NULL where unset;
     * owned by the core. */
    const char *(*option)(void *context, const char *name);
    void (*log)(void *context, int level, const char *format, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 3, 4)))
#endif
        ;
    /* Records the sentence terrace_last_error() will give in this thread, and
     * returns err. The sentence says what failed, on what, and the remedy. */
    int (*fail)(void *context, int err, const char *format, ...)
#if defined(__GNUC__)
        __attribute__((format(printf, 3, 4)))
#endif
        ;
} terrace_host;

/* Flags of a unit. */
enum {
    TERRACE_UNIT_FIXED = 1, /* its pages cannot be moved to other addresses: no
                             * address-stable memory from it */
    TERRACE_UNIT_WHOLE = 2  /* reserve takes memory, not addresses: it is asked for the
                             * budget once, and no more */
};

/* What a unit is, filled in by open (zeroed before, but `size` set by the core
 * and node -1). Fields are only ever appended: a backend that may meet an older
 * core looks at `size` before it fills in what came later. */
typedef struct terrace_unit_info {
    size_t size;
    uint64_t capacity;          /* bytes it can hold now; the default budget */
    char capacity_reason[160];  /* "MemAvailable 23.1 GiB less 5 %" */
    size_t granule;             /* bytes; the large unit of allocation (2 MiB where free to choose) */
    size_t page;                /* bytes; the small unit; addresses and sizes of copies are multiples */
    size_t io_chunk;            /* bytes; a copy is never larger. Power of two, multiple of page */
    uint64_t io_boundary;       /* a copy never crosses a multiple of it in the tier's
                                 * address space, attached files excepted; 0: none. A
                                 * multiple of io_chunk */
    unsigned io_depth;          /* copies worth having in flight at once; the most submit
                                 * accepts, unless io_depth_most is larger */
    char location[256];         /* "node 0, one of 2", "/scratch0:/scratch1 (ext4)" */
    char engine[32];            /* "io_uring" */
    char engine_reason[256];    /* why; what was refused, and the remedy */
    unsigned flags;             /* TERRACE_UNIT_... */
    int node;                   /* the system's number of the NUMA node it is, or is next to; -1:
                                 * none or not known */
    char distances[128];        /* to itself and its like: "numa:0 10, numa:1 21"; "": nothing to say */
    uint64_t boundary;          /* an allocation never crosses a multiple of it in the tier's address
                                 * space; 0: none. A multiple of granule */
    char vendor[32];            /* who made the device, for placement rules: "nvidia", in lower-case
                                 * letters and digits; "": not known, or no device */
    unsigned io_depth_most;     /* the most submit accepts, where more than io_depth may be worth
                                 * having: then it is tried now and then; 0: io_depth */
} terrace_unit_info;

enum { TERRACE_IO_READ = 1 /* tier to host memory */, TERRACE_IO_WRITE = 2 /* host memory to tier */ };

/* As a stream of record: the copies to the tier. */
#define TERRACE_STREAM_COPIES ((void *)-2)

/* Where place puts bytes. */
enum {
    TERRACE_PLACE_UNIT = 0, /* the unit's own memory */
    TERRACE_PLACE_HOST = 1  /* host memory, used by the device at the same addresses, slower */
};

/* One copy. The caller owns it and leaves it alone from submit until wait
 * returns it. */
typedef struct terrace_io {
    uint64_t address;   /* in the tier; a multiple of `page` */
    void *host;         /* CPU address; a multiple of `page` */
    size_t bytes;       /* a multiple of `page`, at most io_chunk, except for the last
                         * part of an attached file, which may end anywhere */
    int op;             /* TERRACE_IO_READ or TERRACE_IO_WRITE */
    int result;         /* out: 0 or a negative TERRACE_E... */
    int os_error;       /* out: the errno or vendor code behind result, else 0 */
    size_t cpu_copied;  /* out: bytes the CPU had to copy on the way */
    void *user;         /* the caller's own */
    uint64_t backend[6]; /* the backend's own, meaningless to the caller */
} terrace_io;

typedef struct terrace_backend {
    /* Valid from ABI 1. */
    uint32_t abi;        /* TERRACE_BACKEND_ABI */
    size_t size;         /* sizeof(terrace_backend) */
    const char *name;    /* the kind: "numa", "nvme"; lower-case letters and digits */
    int tier_class;      /* TERRACE_CLASS_... */
    unsigned caps;       /* TERRACE_CAP_... */

    /* How many units there are here; 0 where the hardware or its runtime is
     * absent; why may then be said by host->fail. Must not print or take long. */
    int (*count)(const terrace_host *host);

    /* Opens unit `index`, fills *info. */
    int (*open)(const terrace_host *host, int index, terrace_unit_info *info, void **unit);
    void (*close)(void *unit);

    /* Takes `bytes` of address space, aligned to the granule, with nothing
     * behind it. Errors: ENOMEM, ENOTSUP (more than can be had at once: the
     * core asks again for less). */
    int (*reserve)(void *unit, uint64_t bytes, unsigned flags, uint64_t *base);
    void (*release)(void *unit, uint64_t base, uint64_t bytes);

    /* Puts memory or blocks behind a page-aligned part of a reservation, so
     * that later copies to it cannot fail for want of space; its contents are
     * undefined. May block. Errors: ENOMEM, EDEVMEM, ENOSPC, EIO. */
    int (*commit)(void *unit, uint64_t address, uint64_t bytes);
    /* Gives them back. The address space stays reserved. */
    void (*decommit)(void *unit, uint64_t address, uint64_t bytes);

    /* Starts up to n copies in order and returns how many were taken, fewer
     * (also 0) when the queue is full. Never blocks on the copies. A taken
     * copy always comes back from wait, exactly once. Errors: only when
     * nothing was taken and the unit is unusable. */
    int (*submit)(void *unit, terrace_io *const *list, unsigned n);

    /* Gives up to max finished copies; returns how many. With none finished
     * it sleeps until one is, until wake, or for timeout_ns (negative: without
     * limit; 0: does not sleep), and may return 0. Short transfers, EINTR and
     * EAGAIN are dealt with here and not seen by the caller. */
    int (*wait)(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns);

    /* Makes a wait in progress, or the next one, return. */
    void (*wake)(void *unit);

    /* Describes a failed copy for people: what was done, where (the file, the
     * offset, the device), and the system's own text. */
    void (*explain)(void *unit, const terrace_io *io, char *buf, size_t len);

    /* ---- optional from here: NULL means not supported ---- */

    /* Makes a part of a user's file readable as tier addresses from *base.
     * Never written. Reading it after the file was changed or truncated gives
     * TERRACE_ECHANGED. May block. Sets the failure sentence by host->fail. */
    int (*attach)(void *unit, const char *path, uint64_t offset, uint64_t bytes, uint64_t *base);
    void (*detach)(void *unit, uint64_t base, uint64_t bytes);

    /* Moves the memory behind CPU addresses, of any tier or mapping of this
     * process, into this unit's memory; the addresses stay, and may be in use.
     * What comes there later prefers this unit, too. Sets no sentence. Errors,
     * after which a part may have been moved: ENOMEM (the unit is full, or the
     * system has no more mappings), EBUSY (some pages stayed: in use by I/O, or
     * shared), ESYSTEM. */
    int (*adopt)(void *unit, uint64_t address, uint64_t bytes);

    /* Says where in a file a committed part of a reservation lies, for it to be
     * mapped: the descriptor, which stays the backend's, the offset, and how
     * many bytes from `address` on, at most `bytes`, follow each other there.
     * What was committed for the first time reads as zeros. For TERRACE_IO_WRITE
     * only where writing to the mapping cannot fail for want of space. Sets
     * the failure sentence by host->fail. Errors: ENOTSUP, EINVAL. */
    int (*file)(void *unit, uint64_t address, uint64_t bytes, int op, int *fd, uint64_t *offset,
                uint64_t *run);

    /* Makes a range of host memory known, for copies that lie in it to be faster:
     * registers it with a ring or a driver. It stays where it is until unpin, and
     * copies may use it before, and where this was refused. May block; also called
     * while copies are under way. Errors: ENOMEM, EPERM, ENOTSUP. */
    int (*pin)(void *unit, void *address, uint64_t bytes);
    void (*unpin)(void *unit, void *address, uint64_t bytes);

    /* From now on a wait, in progress or later, also returns when the descriptor
     * becomes readable. At most once per unit; by the thread that waits; the
     * descriptor may be closed before the unit. Errors: ENOTSUP, ESYSTEM. */
    int (*watch)(void *unit, int fd);

    /* How many bytes could be committed now, as far as that can be told. Errors: ENOTSUP. */
    int (*available)(void *unit, uint64_t *bytes);

    /* ---- streams: queues of work of the tier's own; all four or none. `stream`
     * is what terrace_acquire() and terrace_release() are given, NULL the
     * runtime's default one. By any thread; none of them blocks. They set the
     * failure sentence by host->fail. ---- */

    /* Marks the end of what has been put into the stream by now, or, with
     * TERRACE_STREAM_COPIES, of the copies to the tier that submit has taken by now.
     * The event is the core's until forget. Errors: EINVAL (no stream of this unit), EBUSY (it is
     * being captured), EDEVICE, ENOMEM. */
    int (*record)(void *unit, void *stream, void **event);
    /* 1: all that was before the mark has been done; 0: not yet; or how the device failed. */
    int (*passed)(void *unit, void *event);
    /* What is put into the stream from now on waits for that. NULL: only checks that
     * the stream can be used. Errors: as record. */
    int (*follow)(void *unit, void *stream, void *event);
    void (*forget)(void *unit, void *event);

    /* What acquire gives instead of the address where a tier's memory is used by
     * handles (a cl_mem): one for a committed part of a reservation, which stays as
     * it is until unview. `flags` are the tensor's. By any thread. Both or none.
     * Errors: ENOTSUP, EDEVMEM, EDEVICE; view sets the failure sentence. */
    int (*view)(void *unit, uint64_t address, uint64_t bytes, unsigned flags, void **handle);
    void (*unview)(void *unit, void *handle);

    /* Memory at addresses that programs keep while what is behind them changes; only of
     * units without TERRACE_UNIT_WHOLE whose addresses are pointers that nothing else in
     * the process has. `place` is called instead of commit, for whole granules of one
     * reservation that nothing uses until it returns. Behind granules that have nothing it
     * puts memory of the kind TERRACE_PLACE_..., which reads as zeros; the bytes of those
     * that have memory of another kind it moves. decommit takes either away. `done`: how
     * many bytes from `address` on are there now, in whole granules, also after an error.
     * After one, granules that come after these keep their bytes, too, but may be in either
     * place, or not usable, until place has been called for them again, with either kind.
     * By any thread. May block. Sets the failure sentence by host->fail. Errors: ENOTSUP
     * (there is no such memory), EDEVMEM, ENOMEM (of the host), EINVAL, EDEVICE. */
    int (*place)(void *unit, uint64_t address, uint64_t bytes, int where, uint64_t *done);
} terrace_backend;

/* A library that holds one backend says so with this, once, and is then named in
 * TERRACE_BACKENDS: see examples/backend_template.c. `terrace backend-check LIBRARY`
 * tries everything this file asks of it. */
#define TERRACE_BACKEND_PLUGIN(table)                                                      \
    __attribute__((visibility("default"))) const terrace_backend *terrace_backend_plugin(void); \
    const terrace_backend *terrace_backend_plugin(void) { return &(table); }

/* The table of a backend that is part of this library, by its name; NULL: there is
 * none. It belongs to the library. By any thread. */
TERRACE_API const terrace_backend *terrace_backend_find(const char *name);

/* Built-in backends announce themselves to the core with this, once per table,
 * so that no list of them exists anywhere. */
#define TERRACE_BACKEND_BUILTIN(table)                                                     \
    __attribute__((used, section("terrace_backends"))) static const terrace_backend       \
        *const table##_entry = &(table)

#ifdef __cplusplus
}
#endif
#endif /* TERRACE_BACKEND_H */
