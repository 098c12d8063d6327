/* numa_memory.h - ranges of host memory: on which node, in pages of which size.
 * May call: numa_nodes.h, terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_NUMA_MEMORY_H
#define TERRACE_OFFLOAD_NUMA_MEMORY_H

#include <pthread.h>

#include "numa_nodes.h"
#include "terrace_backend.h"

struct numa_range {
    struct numa_range *next;
    uint64_t base, bytes;
};

struct numa_memory {
    const terrace_host *host;
    int node;              /* pages go to this one; -1: where the kernel likes */
    uint64_t granule;      /* 2 MiB, or the size of the pool's pages */
    bool pool;             /* whole granules come from the system's pool of huge pages */
    int advice;            /* MADV_...: for whole granules that do not */
    pthread_mutex_t lock;  /* protects what is below; nothing is called under it */
    struct numa_range *pooled; /* reservations made from the pool */
    bool said;             /* that the pool ran out */
};

/* Sets up by the setting HUGEPAGES; writes what came of it for people. */
void numa_memory_open(struct numa_memory *m, const terrace_host *host, int node, char *reason, size_t len);
void numa_memory_close(struct numa_memory *m);

/* As the backend's functions of these names. */
int  numa_memory_reserve(struct numa_memory *m, uint64_t bytes, unsigned flags, uint64_t *base);
void numa_memory_release(struct numa_memory *m, uint64_t base, uint64_t bytes);
int  numa_memory_commit(struct numa_memory *m, uint64_t address, uint64_t bytes);
void numa_memory_decommit(struct numa_memory *m, uint64_t address, uint64_t bytes);
int  numa_memory_adopt(struct numa_memory *m, uint64_t address, uint64_t bytes);

#endif
