/* torch.h - what the files of PyTorch's door share.
 * May call: core.h, process.h.
 *
 * What torch does with the functions it is given was read in its own
 * torch/csrc/cuda/CUDAPluggableAllocator.cpp and c10/cuda/CUDACachingAllocator.cpp
 * (versions 1.13 to 2.9). */
#ifndef TERRACE_TORCH_H
#define TERRACE_TORCH_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <bsd/sys/tree.h>
#include <sys/queue.h>

#include "terrace.h"

enum { TORCH_DEVICES = 64 };

/* Memory that torch has, or had while a graph was captured. */
struct torch_block {
    RB_ENTRY(torch_block) by_address; /* while it is torch's */
    SLIST_ENTRY(torch_block) link;    /* in a pool, or parted */
    uintptr_t address;
    size_t bytes;
    terrace_tensor *tensor;
    int device;
    void *stream;                     /* on which it was asked for */
    bool captured;                    /* while that was being captured into a graph */
    bool unmarked;                    /* a use of it could not be recorded */
    terrace_torch_pool pool;          /* whose graphs use it; zeros: not known */
    unsigned pins;
    struct torch_use *uses;           /* on other streams */
};

struct torch_use {
    struct torch_use *next;
    void *stream;
};

SLIST_HEAD(torch_list, torch_block);

/* ---- blocks.c ---- */

/* Gives the memory of a list back, all use of which has ended. */
void torch_drop(struct torch_list *list);

/* ---- graphs.c: all of these under the door's lock ---- */

/* Which pool a block belongs to that is asked for while a stream of the device is
 * captured; zeros: that is not known. */
terrace_torch_pool torch_pool_of(int device);
/* A block that graphs of an open pool do not use any more, taken from it; or NULL. */
struct torch_block *torch_pool_take(size_t bytes, int device, void *stream);
/* Keeps a block that torch has given back, as a graph uses it. False: its pool is
 * gone, and no graph does. */
bool torch_pool_keep(struct torch_block *b);
/* Keeps a block until nothing runs on the device. */
void torch_part(struct torch_block *b);
/* Takes those of which that is true now: waits for the device. Not under the lock. */
void torch_parted_take(struct torch_list *out);

/* The door's lock: it protects what is in these lists and the tree of blocks. It is
 * taken before none, and no function of the library is called under it. */
extern pthread_mutex_t torch_lock __attribute__((visibility("hidden")));

/* ---- raise.c ---- */

/* Raises torch's own exception for a device without memory left, with the sentence;
 * returns where torch is not in the process, or not as known. */
void torch_raise(const char *sentence);

#endif
