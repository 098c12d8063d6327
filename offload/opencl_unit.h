/* opencl_unit.h - what the files of the OpenCL tier share.
 * May call: opencl_driver.h, terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_OPENCL_UNIT_H
#define TERRACE_OFFLOAD_OPENCL_UNIT_H

#include <pthread.h>
#include <sys/types.h>

#include "opencl_driver.h"
#include "terrace_backend.h"

enum {
    OPENCL_MOST = 8, /* tiers; leaves some of the core's for others */
    OPENCL_GRANULE = 2 << 20,
    OPENCL_IO_CHUNK = 32 << 20, /* less, and copies that the CPU makes go through its caches */
    OPENCL_IO_DEPTH = 16
};

/* ---- devices (opencl_devices.c) ------------------------------------------ */

struct opencl_found {
    opencl_platform platform;
    opencl_device device;
    bool shared; /* its memory is the host's */
    bool aside;  /* no tier unless TERRACE_TIERS names it */
};

/* Whether all implementations that are installed compute on the CPU. Loads nothing. */
bool opencl_only_cpu(void);
/* The devices that can be tiers, those first that are by themselves; returns how many.
 * 0: `why` says why. */
int opencl_find(struct opencl_found list[OPENCL_MOST], char *why, size_t len);

/* One number or text of a device; 0 or "" where it cannot be told. */
uint64_t opencl_number(opencl_device device, opencl_uint what);
void opencl_string(opencl_device device, opencl_uint what, char *buf, size_t len);

/* ---- the unit ------------------------------------------------------------ */

/* A part of a reservation that is one buffer, from the first commit in it until the
 * last decommit. */
struct opencl_slab {
    uint64_t base, bytes;
    uint64_t committed;   /* bytes; 0: no buffer */
    opencl_memory buffer;
};

struct opencl_unit {
    const terrace_host *host;
    pid_t pid;
    char name[96]; /* "opencl:0 (pthread-skylake)" */
    opencl_device device;
    opencl_context context;
    opencl_queue queue; /* the default stream */
    opencl_queue into, from; /* copies to the device, from it */
    uint64_t boundary; /* bytes of a slab, but for the last of a reservation */
    uint64_t all;      /* of the device's memory */

    pthread_mutex_t memory; /* protects these; taken by itself */
    uint64_t next, end;     /* addresses not reserved yet */
    struct opencl_slab *slab;
    size_t slabs;

    pthread_mutex_t lock; /* protects these; taken by itself, also by OpenCL's threads */
    pthread_cond_t changed;
    terrace_io *finished[OPENCL_IO_DEPTH];
    unsigned count;
    bool woken;
    unsigned taken; /* copies, by the one thread that submits and waits */
};

/* Sets the sentence for a failure of OpenCL's and returns its TERRACE_E... code. */
__attribute__((format(printf, 3, 4))) int opencl_fail(const struct opencl_unit *u, opencl_int code,
                                                      const char *format, ...);

/* ---- memory (opencl_memory.c) -------------------------------------------- */

/* After the device is known: its addresses, pages and slabs. */
void opencl_memory_open(struct opencl_unit *u, int index, bool shared, terrace_unit_info *info);
void opencl_memory_close(struct opencl_unit *u);
/* A handle of its own for a committed part; NULL: why not, 0 where nothing is there.
 * To be released. */
opencl_memory opencl_part(struct opencl_unit *u, uint64_t address, uint64_t bytes, opencl_int *code);

int opencl_reserve(void *unit, uint64_t bytes, unsigned flags, uint64_t *base);
void opencl_release(void *unit, uint64_t base, uint64_t bytes);
int opencl_commit(void *unit, uint64_t address, uint64_t bytes);
void opencl_decommit(void *unit, uint64_t address, uint64_t bytes);
int opencl_view(void *unit, uint64_t address, uint64_t bytes, unsigned flags, void **handle);
void opencl_unview(void *unit, void *handle);

/* ---- copies and streams (opencl_copy.c, opencl_stream.c) ------------------ */

/* 0 or OpenCL's code. */
opencl_int opencl_copies_open(struct opencl_unit *u, terrace_unit_info *info);
void opencl_copies_close(struct opencl_unit *u);

int opencl_submit(void *unit, terrace_io *const *list, unsigned n);
int opencl_wait(void *unit, terrace_io **done, unsigned max, int64_t timeout_ns);
void opencl_wake(void *unit);
void opencl_explain(void *unit, const terrace_io *io, char *buf, size_t len);

int opencl_record(void *unit, void *stream, void **event);
int opencl_passed(void *unit, void *event);
int opencl_follow(void *unit, void *stream, void *event);
void opencl_forget(void *unit, void *event);

#endif
