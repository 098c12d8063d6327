/* cuda_hooks.h - what the files share that stand between a program and the CUDA driver.
 *
 * cuda_reach.c finds the driver and has programs find this library in its place,
 * cuda_entries.c has the entries that a program then calls, cuda_work.c knows what
 * streams have to do, cuda_memory.c has the memory. Nothing here calls the driver
 * before the program has loaded it.
 * May call: cuda_abi.h, preload.h. */
#ifndef TERRACE_PRELOAD_CUDA_HOOKS_H
#define TERRACE_PRELOAD_CUDA_HOOKS_H

#include "cuda_abi.h"
#include "preload.h"

/* ---- cuda_reach.c ---- */

/* Whether the program has loaded the driver: then `driver` is filled in. */
bool reach_driver(void);
/* The system's own. */
void *reach_dlsym(void *handle, const char *name);

/* At the beginning of an entry: its end where the driver is not there or lacks it. */
#define CUDA_NEEDS(symbol)                                                   \
    do {                                                                     \
        if (!reach_driver() || !driver.symbol)                               \
            return driver.cuCtxGetCurrent ? CUDA_NOT_FOUND : CUDA_NOT_INITIALIZED; \
    } while (0)

/* ---- cuda_work.c: what streams have to do ---- */

/* Around a call that puts work into a stream; it waits while memory is moved. Nothing
 * is noted as long as no memory of terrace's is in use. */
bool work_begin(void);
void work_end(bool begun, cuda_stream stream);
/* Any stream: which one is not known. */
#define CUDA_STREAM_ANY ((cuda_stream)-1)
/* A stream is about to be destroyed. */
void work_destroys(cuda_stream stream);
/* Of a context nothing is left. */
void work_forget(cuda_context context);

/* What work was noted so far; a call that has waited for all work in a context says so
 * with the number from before. */
uint64_t work_noted(void);
void work_done(cuda_context context, uint64_t noted);

/* A capture has begun or ended: meanwhile nothing moves, and nobody asks a stream. */
void work_captures(int more);
bool work_is_captured(void);

/* Stops new work if none is under way anywhere; false: some is, or may be. */
bool work_stop(void);
void work_go_on(void);
/* Waits for all work in the contexts that have some; false where that cannot be. */
bool work_wait(void);

/* ---- cuda_use.c: which memory is used ---- */

/* A kernel was launched with these arguments. */
void use_launch(cuda_function function, void **args, void **extra);
/* Code is unloaded, and with it functions. */
void use_forget(void);

/* ---- cuda_memory.c: device memory that comes from terrace ---- */

extern atomic_size_t memory_count __attribute__((visibility("hidden"))); /* of its blocks */

/* Memory on the current device; false: the driver is to be asked. */
bool memory_new(size_t bytes, const void *caller, cuda_address *out);
/* The same, for use in a stream: what was given back there may be had at once. */
bool memory_new_ordered(size_t bytes, const void *caller, cuda_stream stream, cuda_address *out);
/* False: not a block of terrace's. */
bool memory_free(cuda_address at);
bool memory_free_ordered(cuda_address at, cuda_stream stream);
/* Those that belong to a context, or a device, which is about to go. */
void memory_free_all(cuda_context context, int device);

struct memory_range {
    cuda_address base;
    size_t bytes; /* as asked for */
    int device;
    cuda_context context; /* of who allocated it */
};
bool memory_range(cuda_address at, struct memory_range *out);
/* The block comes to the device's own memory and stays there from now on, or may move
 * again; false: it cannot be kept. */
bool memory_keep(cuda_address at, bool keep);
/* All that there are of a device: what a graph may use. */
void memory_keep_all(int device);

/* A kernel was given a word that may be an address in a block. */
void memory_use(cuda_address at);

/* Nothing may run just now: granules move, and what was given back goes. Looks by itself
 * whether that is so; false: it is not. */
bool memory_settle(void);
/* The manager and tier of a device; NULL: its memory is the driver's. Inside a guard. */
terrace *memory_manager(int device, terrace_tier *tier);
/* Whether memory is for a library that shares it with other processes or devices, by
 * means that know only the driver's. */
bool memory_is_shared(const void *caller);
/* Whether blocks are on this device, which others then cannot reach; whether there is
 * anything of terrace's. */
bool memory_excludes_peers(int device);
bool memory_has_tier(int device);
/* From now on this device's memory is the driver's. */
void memory_leave(int device);

/* ---- cuda_capacity.c ---- */

/* Puts what is to be told of the current device's memory in place of the truth. */
void memory_tell(size_t *unused, size_t *all);

/* ---- nccl.c ---- */

HOOK int ncclCommRegister(void *communicator, void *at, size_t bytes, void **handle);
/* NCCL's own; NULL: the program has not loaded it. */
void *nccl_own(void);

#endif
