/* The backend interface as it first was, ABI 1, with the way into a library. Never
 * edited: what was built with it must go on working. */
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

/* What a unit is, filled in by open (zeroed before, `size` set by the core). */
typedef struct terrace_unit_info {
    size_t size;
    uint64_t capacity;          /* bytes it can hold now; the default budget */
    char capacity_reason[160];  /* "MemAvailable 23.1 GiB less 5 %" */
    size_t granule;             /* bytes; the large unit of allocation (2 MiB where free to choose) */
    size_t page;                /* bytes; the small unit; addresses and sizes of copies are multiples */
    size_t io_chunk;            /* bytes; a copy is never larger. Power of two, multiple of page */
    uint64_t io_boundary;       /* a copy never crosses a multiple of it in the tier's
                                 * address space; 0: none. A multiple of io_chunk */
    unsigned io_depth;          /* copies worth having in flight at once; the most submit accepts */
    char location[256];         /* "node 0 of 1", "/scratch0:/scratch1 (ext4)" */
    char engine[32];            /* "io_uring" */
    char engine_reason[256];    /* why; what was refused, and the remedy */
} terrace_unit_info;

enum { TERRACE_IO_READ = 1 /* tier to host memory */, TERRACE_IO_WRITE = 2 /* host memory to tier */ };

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
     * absent. Must not print, fail loudly or take long. */
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
} terrace_backend;

#define TERRACE_BACKEND_PLUGIN(table)                                                      \
    __attribute__((visibility("default"))) const terrace_backend *terrace_backend_plugin(void); \
    const terrace_backend *terrace_backend_plugin(void) { return &(table); }

/* Built-in backends announce themselves to the core with this, once per file,
 * so that no list of them exists anywhere. */
#define TERRACE_BACKEND_BUILTIN(table)                                                     \
    __attribute__((used, section("terrace_backends"))) static const terrace_backend       \
        *const terrace_backend_entry = &(table)

#ifdef __cplusplus
}
#endif
#endif /* TERRACE_BACKEND_H */
