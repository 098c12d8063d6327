/* numa_nodes.h - which NUMA nodes the process may take memory from.
 * May call: libc, libnuma's system calls through struct numa_system. */
#ifndef TERRACE_OFFLOAD_NUMA_NODES_H
#define TERRACE_OFFLOAD_NUMA_NODES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { NUMA_MOST_NUMBER = 1024, /* of nodes, in Linux */
       NUMA_MOST = 12 };        /* tiers; leaves some of the core's for others */

/* All that is asked of the system, so that tests can present another machine:
 * its files lie below `root`, "" being the real one. */
struct numa_system {
    const char *root;
    long (*mbind)(void *start, unsigned long bytes, int mode, const unsigned long *nodes,
                  unsigned long most, unsigned flags);
    long (*move_pages)(int process, unsigned long n, void **page, const int *node, int *status,
                       int flags);
};
extern const struct numa_system *numa_system;

struct numa_node {
    int number;   /* the system's; -1: not known, and memory is not bound */
    bool cpus;
    int distance; /* from the node of the first CPU the process may use; 10 is near */
};

/* In the order of the tiers: nodes with CPUs before those without, near before
 * far, then by number. At least one; a single one is not bound, as there is
 * nothing to choose. */
struct numa_nodes {
    int count, allowed; /* tiers; nodes that may be used */
    struct numa_node node[NUMA_MOST];
    char unbound[120];  /* why there is one tier for several nodes; "": it is not so */
};

/* Never fails: what cannot be read is left out. */
void numa_nodes_find(struct numa_nodes *out);

/* The distance between two nodes by their numbers; 0: not known. */
int numa_nodes_distance(int from, int to);

/* Bytes that can be had from a node: free, and cached files that can be
 * dropped. False: not known. */
bool numa_nodes_available(int number, uint64_t *bytes);

/* Applies a policy (MPOL_...) with one node to a range. 0 or an errno. */
int numa_nodes_bind(int number, uint64_t address, uint64_t bytes, int mode, unsigned flags);

/* The first line that begins with `key` of a file below the root, without key
 * and blanks. False: no such line. */
bool numa_read(const char *path, const char *key, char *buf, size_t len);

#endif
