/* engine.h - the simulated accelerator under a vendor-shaped table.
 *
 * Memory, streams, events, timing and faults, over host memory, for tests. A
 * table (cuda_*.c, hip.c, ascend.c, ...) gives them a vendor's names, types and
 * codes; it calls what is declared here and in stream.h, and nothing here knows a
 * vendor.
 *
 * One lock, engine.lock, protects everything but the bytes of the memories.
 * Functions named _locked are called with it held; all others take it. Results
 * are 0 or one of enum sim_error. */
#ifndef TERRACE_TESTS_SIM_ENGINE_H
#define TERRACE_TESTS_SIM_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "sim.h"

#define SIM_EXPORT __attribute__((visibility("default")))

enum { MAX_DEVICES = 8 };

enum sim_error {
    SIM_OK,
    SIM_EINVAL,
    SIM_ENOMEM,
    SIM_ENOTINIT,       /* not initialised, or a forked child */
    SIM_ENODEVICE,      /* there is none */
    SIM_EBADDEVICE,     /* no such device */
    SIM_ENOCONTEXT,     /* none is current */
    SIM_EDESTROYED,     /* the context was */
    SIM_EHANDLE,        /* not a live object of that kind */
    SIM_ENOTFOUND,
    SIM_ENOTREADY,
    SIM_EILLEGAL,       /* work touched memory that is not there */
    SIM_ELOST,          /* the device was lost: engine.devices[].lost_code */
    SIM_EREGISTERED,    /* host memory: already */
    SIM_ENOTREGISTERED, /* host memory: not */
    SIM_ENOTPERMITTED,
    SIM_ENOTSUP,
    SIM_EPEERS,         /* access is already enabled */
    SIM_ENOPEERS,       /* access is not enabled */
    SIM_EPEERLESS,      /* cannot be */
    SIM_ECAPTURING,     /* not while a stream is being captured */
    SIM_EINVALIDATED,   /* the capture was */
    SIM_ESTATE,         /* a stream is captured already, or is not */
    SIM_EUNMATCHED,     /* the capture began in another stream */
    SIM_EUNJOINED,      /* a stream of the capture was not waited for */
    SIM_EIMPLICIT,      /* would depend on a capture by way of the default stream */
    SIM_ECAPTURED,      /* the event belongs to a capture */
    SIM_EMERGE,         /* would join two captures */
    SIM_EISOLATION,     /* would make a capture depend on what is outside of it */
    SIM_ETHREAD,        /* the capture began in another thread */
    SIM_ERRORS
};

struct settings {
    /* devices, capacity, ...: the fields of SIM_SETTINGS */
    int64_t devices, capacity, driver_version, granularity, pinned;
    int64_t rate[SIM_DIRECTIONS], latency[SIM_DIRECTIONS];
    int64_t queues, sync, staged, stall_ms;
    int64_t vmm, host_vmm, host_numa_vmm, host_numa_id, nodes, pools, memops, peer;
    int64_t integrated, pageable_access, host_register, async_engines;
    int64_t allocation, lost, ipc_mapped, corrupt, verbose, report;
};

struct stream;

/* A device's one context, counted. */
struct context {
    struct device *device;
    unsigned retained;
    struct stream *null;     /* the default stream, from the first use on */
    bool peers[MAX_DEVICES]; /* whose memory may be used */
};

struct device {
    int id;
    int failed;         /* SIM_EILLEGAL or SIM_ELOST: all calls fail from then on */
    int lost_code;      /* the vendor's code for SIM_ELOST */
    unsigned lose_in;   /* copies until it is lost, 0: never */
    uint64_t free_at[SIM_DIRECTIONS]; /* when the copy engine has done what it has, in ns */
    bool calling;       /* a host function runs */
    unsigned moving;    /* pieces of work that move bytes or compute just now */
    unsigned pending;   /* pieces of work not done */
    struct context context;
};

extern struct engine {
    pthread_mutex_t lock;
    pthread_cond_t progress; /* work ended, a hold was let go, memory was written */
    struct settings settings;
    struct device devices[MAX_DEVICES];
    struct sim_counts counts;
    unsigned held;    /* kinds of work */
    uint64_t moves;   /* of progress: rises whenever work ends */
    unsigned pending; /* pieces of work not done */
    bool initialised, forked;
} engine;

/* What the table over the engine says of itself. */
extern const struct vendor {
    const char *prefix;         /* of settings in the environment: "SIM_CUDA_" */
    int (*code)(int sim_error); /* its code for one of the engine's; under the lock */
    uint64_t (*stream)(void *); /* the engine's handle for one of its streams */
    bool lasting;               /* contexts are never released, and are no leaks */
} vendor;

/* ---- engine.c ---------------------------------------------------------------- */

void engine_lock(void);
void engine_unlock(void);
/* Reads the settings, once; called by every exported function. */
void engine_start(void);
uint64_t engine_now(void); /* ns */
/* Waits under the lock until something moves, at most ns. */
void engine_wait_locked(uint64_t ns);
void engine_moved_locked(void);
/* Whether a device has failed, and nothing is under way there any more. */
bool engine_failed_locked(const struct device *device);
/* Gives the lock up until that time. */
void engine_sleep_until_locked(uint64_t ns);

/* ---- calls.c: what happens at each entry of a runtime -------------------------- */

struct entry {
    const char *name;
    unsigned calls;
    struct entry *next;
    bool listed;
};
enum {
    ENTRY_ANY = 0,     /* no condition */
    ENTRY_INIT = 1,    /* after initialisation */
    ENTRY_CONTEXT = 2, /* with a current context, whose device works */
    ENTRY_CLEANUP = 4, /* takes away even if the device has failed: the code is for the end */
    ENTRY_UNSAFE = 8   /* not while a stream is being captured in global mode */
};
/* Counts a call and decides whether it is to fail: a code of the vendor's. */
int entry_enter(struct entry *entry, unsigned conditions);
/* The code a call ends with: of its own result, or of the device's failure. */
int entry_leave(int error);

void misuse_locked(const char *format, ...) __attribute__((format(printf, 1, 2)));
void misuse(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* For how many ns at most a call may wait before it looks again: see STALL_MS. */
uint64_t calls_stall_locked(void);
/* What the calling thread runs, which must not call the runtime; NULL: nothing. */
extern __thread const char *calls_inside;

/* ---- devices.c: the current context of a thread --------------------------------- */

int devices_init(void);
int devices_count(void);
int devices_get(int id, struct device **out);
int context_retain(struct device *device, struct context **out);
int context_release(struct device *device);
int context_push(struct context *context); /* NULL: none */
int context_pop(struct context **out);
int context_set(struct context *context);
/* The current one, NULL: none. */
struct context *context_current(void);
/* Its handle, and what a handle stands for; NULL: none. */
void *context_handle(const struct context *context);
struct context *context_of(const void *handle);
int context_enable_peer(struct context *context, struct context *peer, bool enable);

/* ---- objects.c: handles ------------------------------------------------------------ */

enum object_kind { OBJECT_STREAM = 1, OBJECT_EVENT, OBJECT_PHYSICAL, OBJECT_GRAPH, OBJECT_POOL };

/* A handle is a number and no address: a number is never given again, so that one
 * of an object destroyed before is known as such. */
uint64_t object_add_locked(enum object_kind kind, void *object);
void *object_find_locked(enum object_kind kind, uint64_t handle);
void object_remove_locked(uint64_t handle);
/* Calls `each` for every object of a kind. */
void object_each_locked(enum object_kind kind, void (*each)(void *object, void *arg), void *arg);

/* ---- account.c: how much memory there is -------------------------------------------- */

/* Takes bytes of a device's memory, of all processes with the same account. */
bool account_take(int device, uint64_t bytes);
void account_give(int device, uint64_t bytes);
uint64_t account_used(int device); /* by all of them */

/* ---- memory.c: ranges of addresses and what is behind them ---------------------------- */

enum { ACCESS_NONE, ACCESS_READ = 1, ACCESS_WRITE = 2, ACCESS_BOTH = 3 };
enum place { PLACE_DEVICE, PLACE_HOST, PLACE_NODE };

int memory_alloc(struct context *context, uint64_t bytes, uint64_t *address);
int memory_free(uint64_t address);
int memory_info(int device, uint64_t *free, uint64_t *total);
int memory_range(uint64_t address, uint64_t *base, uint64_t *bytes);
/* Of which kind an address is: a device's, pinned host memory, none; and whose. */
enum memory_kind { MEMORY_NONE, MEMORY_DEVICE, MEMORY_HOST };
enum memory_kind memory_kind(uint64_t address, int *device);

/* ---- pages.c: reserving, creating, mapping ----------------------------------------------- */

int pages_reserve(uint64_t bytes, uint64_t align, uint64_t hint, uint64_t *address);
int pages_unreserve(uint64_t address, uint64_t bytes);
int pages_create(enum place place, int id, uint64_t bytes, uint64_t *handle);
int pages_release(uint64_t handle);
int pages_map(struct context *context, uint64_t address, uint64_t bytes, uint64_t handle);
int pages_unmap(struct context *context, uint64_t address, uint64_t bytes);
/* Access of a device, or of the host (device -1). */
int pages_set_access(uint64_t address, uint64_t bytes, int device, bool host, unsigned access);
int pages_get_access(uint64_t address, int device, unsigned *access);

/* ---- host.c: page-locked host memory ---------------------------------------------------------- */

int host_alloc(struct context *context, uint64_t bytes, void **out);
int host_free(struct context *context, void *p);
int host_register(struct context *context, void *p, uint64_t bytes);
int host_unregister(struct context *context, void *p);

#endif /* TERRACE_TESTS_SIM_ENGINE_H */
