/* sim.h - what tests ask of a simulated accelerator runtime.
 *
 * A runtime of this folder (libcuda.so.1, libamdhip64.so.6, ...) is a simulation
 * over host memory: nothing here is hardware. A test links with it, or finds these
 * functions by dlsym. Settings come from the environment, SIM_CUDA_NAME for the
 * NAME of one in the list below (SIM_HIP_NAME and so on), read at the first call;
 * sim_set changes one later. Sizes take a suffix K, M or G. Results of type int are
 * the runtime's own codes. */
#ifndef TERRACE_TESTS_SIM_H
#define TERRACE_TESTS_SIM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif

/* NAME, field, default, what it is. */
#define SIM_SETTINGS(X)                                                                            \
    X(DEVICES, devices, 1, "devices there are, at most 8")                                         \
    X(CAPACITY, capacity, 256 << 20, "bytes of memory of each device")                             \
    X(DRIVER_VERSION, driver_version, 13000, "what the runtime says of itself")                    \
    X(GRANULARITY, granularity, 2 << 20, "bytes; of physical memory and of its mappings")          \
    X(PINNED, pinned, 0, "bytes of host memory that can be registered or allocated; 0: no end")    \
    X(HTOD_RATE, rate[SIM_HTOD], 0, "bytes a second from host to device; 0: as fast as it goes")   \
    X(DTOH_RATE, rate[SIM_DTOH], 0, "the same from device to host")                                \
    X(DTOD_RATE, rate[SIM_DTOD], 0, "the same between and inside devices")                         \
    X(HTOD_NS, latency[SIM_HTOD], 0, "nanoseconds that a copy from host to device takes at least") \
    X(DTOH_NS, latency[SIM_DTOH], 0, "the same from device to host")                               \
    X(DTOD_NS, latency[SIM_DTOD], 0, "the same between and inside devices")                        \
    X(QUEUES, queues, 0, "hardware queues that streams share; 0: one for each stream")             \
    X(SYNC, sync, SIM_SYNC_FREE, "SIM_SYNC_ bits: calls that wait for all work of the device")     \
    X(STAGED, staged, 0, "bytes of pageable memory copied aside at once; larger ones wait")        \
    X(STALL_MS, stall_ms, 10000, "ms without progress after which a waiting call is a misuse")     \
    X(VMM, vmm, 1, "whether memory can be reserved and mapped")                                    \
    X(HOST_VMM, host_vmm, 1, "whether host memory can be created and mapped")                      \
    X(HOST_NUMA_VMM, host_numa_vmm, 1, "whether a node's memory can be created and mapped")        \
    X(HOST_NUMA_ID, host_numa_id, 0, "the node next to each device; -1: none")                     \
    X(NODES, nodes, 1, "NUMA nodes there are")                                                     \
    X(POOLS, pools, 1, "whether there is stream-ordered allocation")                               \
    X(MEMOPS, memops, 1, "whether streams wait for and write values in memory")                    \
    X(PEER, peer, 1, "whether devices reach each other's memory")                                  \
    X(INTEGRATED, integrated, 0, "whether devices share the host's memory")                        \
    X(PAGEABLE_ACCESS, pageable_access, 0, "whether devices reach pageable memory")                \
    X(HOST_REGISTER, host_register, 1, "whether host memory can be registered")                    \
    X(ASYNC_ENGINES, async_engines, 2, "copy engines of each device, as it says")                  \
    X(ALLOCATION, allocation, 0, "bytes of memory that can be allocated at once; 0: no end")       \
    X(LOST, lost, 0, "a code with which device 0 is lost from the start; 0: it is not")            \
    X(IPC_MAPPED, ipc_mapped, 0, "whether cuIpcGetMemHandle takes memory that was mapped")         \
    X(CORRUPT, corrupt, 0, "the last byte of each copy is another: 1: from a device, 2: between devices")               \
    X(VERBOSE, verbose, 0, "1: misuses are printed as they happen")                                \
    X(REPORT, report, 0, "1: misuses and leaks are printed at exit")

enum { SIM_HTOD, SIM_DTOH, SIM_DTOD, SIM_HTOH, SIM_DIRECTIONS };

enum {
    SIM_SYNC_ALLOC = 1,
    SIM_SYNC_FREE = 2,
    SIM_SYNC_MAP = 4,
    SIM_SYNC_UNMAP = 8,
    SIM_SYNC_REGISTER = 16, /* and allocating and freeing host memory */
    SIM_SYNC_ALL = 31
};

/* Changes a setting; false if there is none of that name. */
bool sim_set(const char *name, int64_t value);
int64_t sim_get(const char *name);

/* ---- memory ---------------------------------------------------------------- */

/* Where the bytes at device addresses are, NULL unless all of them are mapped
 * and the device may read and write them. For kernels (see below), which keep
 * them from being unmapped until they end, and for looking at memory at rest. */
void *sim_memory(uint64_t address, size_t bytes);
/* The same with bytes copied, from outside of any stream; false if not mapped. */
bool sim_read(void *to, uint64_t from, size_t bytes);
bool sim_write(uint64_t to, const void *from, size_t bytes);
/* Whether what is behind an address is a device's memory. */
bool sim_on_device(uint64_t address);
/* Takes bytes of a device's memory, as another process would, negative: gives
 * them back; false if they are not free. */
bool sim_occupy(int device, int64_t bytes);

/* ---- kernels --------------------------------------------------------------- */

/* Puts a function into a stream of the current context, NULL: the default one:
 * it runs when all before it is done, `ns` after it could. It may use
 * sim_memory() and must not call the runtime. */
int sim_launch(void *stream, void (*kernel)(void *), void *arg, uint64_t ns);

/* What a CUfunction points to here: cuLaunchKernel() runs it with a copy of what its
 * first argument points to. */
struct sim_function {
    void (*kernel)(void *);
    size_t bytes;
};

/* Kinds of work in streams. */
enum {
    SIM_COPY,
    SIM_FILL,
    SIM_WAIT_EVENT,
    SIM_RECORD,
    SIM_WAIT_VALUE,
    SIM_WRITE_VALUE,
    SIM_KERNEL,
    SIM_HOST_FUNCTION,
    SIM_ALLOC,
    SIM_FREE,
    SIM_BARRIER,
    SIM_KINDS
};

/* No work of these kinds (1u << SIM_COPY, ...) begins until it is let go. */
void sim_hold(unsigned kinds);
void sim_let_go(void);
/* Pieces of work put into streams and not done. */
unsigned sim_pending(void);

/* What was done, in the order in which it ended: the `i`th since the start. */
struct sim_done {
    int kind;      /* SIM_COPY, ... */
    int direction; /* of a copy: SIM_HTOD, ... */
    bool pageable; /* a copy that had to do with pageable memory */
    int device;
    void *stream; /* its handle; NULL: the default one */
    uint64_t to, from, bytes;
};
bool sim_done(unsigned i, struct sim_done *out);

/* ---- faults ---------------------------------------------------------------- */

/* The `nth` call from now (1: the next) of an entry point, NULL: of any, fails
 * with a code of the runtime, and so do those after it, `times` in all; 0: for
 * ever. Code 0 withdraws all that was asked for the entry point. */
void sim_fail(const char *call, unsigned nth, unsigned times, int code);
/* The device is lost when its nth copy from now begins, 0: at once: that copy
 * and all work after it is not done, and each call has this code. */
void sim_lose(int device, unsigned nth, int code);

/* ---- what was seen ----------------------------------------------------------- */

/* How often an entry point was called. */
unsigned sim_calls(const char *call);

/* What the documentation forbids, or is a mistake though it is allowed. */
unsigned sim_misuses(void);
const char *sim_misuse(unsigned i);
void sim_forget_misuses(void);

struct sim_counts {
    uint64_t copies[SIM_DIRECTIONS], bytes[SIM_DIRECTIONS];
    uint64_t pageable_copies, pageable_bytes;
    uint64_t used[8];          /* bytes of each device's memory taken by this process */
    uint64_t pinned;           /* bytes of host memory registered or allocated */
    uint64_t reserved;         /* bytes of address space */
    unsigned streams, events;  /* that exist */
};
void sim_count(struct sim_counts *out);

/* Lists in `to`, unless NULL, what was not given back: memory, reservations,
 * registrations, streams, events, contexts. Returns how many. */
unsigned sim_leaks(FILE *to);

#ifdef __cplusplus
}
#endif
#endif /* TERRACE_TESTS_SIM_H */
