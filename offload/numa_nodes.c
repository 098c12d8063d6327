/* numa_nodes.c - which NUMA nodes the process may take memory from, and how far they are.
 *
 * Read from the kernel's own files rather than by libnuma's calls, some of
 * which print or end the process, and which containers often refuse; a node
 * counts where the process's cpuset allows it and it has memory. libnuma gives
 * the two system calls that place pages. */
#define _GNU_SOURCE
#include "numa_nodes.h"

#include <errno.h>
#include <limits.h>
#include <numaif.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#ifndef MPOL_F_STATIC_NODES
#define MPOL_F_STATIC_NODES (1 << 15) /* declared by Linux, not by libnuma */
#endif

#define NODES "/sys/devices/system/node/"
enum { WORD = 8 * sizeof(unsigned long), WORDS = NUMA_MOST_NUMBER / WORD, NEAR = 10, PAGE = 4096 };

static const struct numa_system real = {"", mbind, move_pages};
const struct numa_system *numa_system = &real;

/* ---- reading ------------------------------------------------------------- */

bool numa_read(const char *path, const char *key, char *buf, size_t len)
{
    char full[PATH_MAX];
    snprintf(full, sizeof full, "%s%s", numa_system->root, path);
    FILE *file = fopen(full, "re");
    if (!file)
        return false;
    char *line = NULL;
    size_t room = 0, skip = strlen(key);
    bool found = false;
    while (!found && getline(&line, &room, file) > 0) {
        found = strncmp(line, key, skip) == 0;
        if (found) {
            const char *value = line + skip + strspn(line + skip, " \t");
            snprintf(buf, len, "%.*s", (int)strcspn(value, "\n"), value);
        }
    }
    free(line);
    fclose(file);
    return found;
}

struct set {
    unsigned long bits[WORDS];
};

static void add(struct set *s, unsigned long n)
{
    if (n < NUMA_MOST_NUMBER)
        s->bits[n / WORD] |= 1ul << n % WORD;
}

static bool has(const struct set *s, int n)
{
    return s->bits[n / WORD] >> n % WORD & 1;
}

/* A list as the kernel writes it: "0-3,8". */
static bool read_set(const char *path, const char *key, struct set *out)
{
    char text[4096], *at = text;
    memset(out, 0, sizeof *out);
    if (!numa_read(path, key, text, sizeof text))
        return false;
    while (*at >= '0' && *at <= '9') {
        unsigned long first = strtoul(at, &at, 10);
        unsigned long last = *at == '-' ? strtoul(at + 1, &at, 10) : first;
        for (; first <= last && first < NUMA_MOST_NUMBER; first++)
            add(out, first);
        at += *at == ',';
    }
    return true;
}

int numa_nodes_distance(int from, int to)
{
    struct set online;
    char path[64], text[NUMA_MOST_NUMBER * 4], *at = text;
    snprintf(path, sizeof path, NODES "node%d/distance", from);
    if (!read_set(NODES "online", "", &online) || !numa_read(path, "", text, sizeof text))
        return 0;
    for (int n = 0; n < to; n++) /* a number for each node that is online */
        if (has(&online, n))
            strtol(at, &at, 10);
    return (int)strtol(at, NULL, 10);
}

bool numa_nodes_available(int number, uint64_t *bytes)
{
    static const char *const what[] = {"MemFree:", "Active(file):", "Inactive(file):", "SReclaimable:"};
    char path[64], key[64], text[64];
    *bytes = 0;
    snprintf(path, sizeof path, NODES "node%d/meminfo", number);
    for (size_t i = 0; i < sizeof what / sizeof *what; i++) {
        snprintf(key, sizeof key, "Node %d %s", number, what[i]);
        if (numa_read(path, key, text, sizeof text))
            *bytes += strtoull(text, NULL, 10) << 10;
        else if (i == 0)
            return false;
    }
    return true;
}

/* ---- binding ------------------------------------------------------------- */

int numa_nodes_bind(int number, uint64_t address, uint64_t bytes, int mode, unsigned flags)
{
    struct set node = {0};
    add(&node, (unsigned long)number);
    /* Static: that node and no other, even if the process's cpuset changes. */
    return numa_system->mbind((void *)(uintptr_t)address, bytes, mode | MPOL_F_STATIC_NODES, node.bits,
                              NUMA_MOST_NUMBER + 1, flags) ? errno : 0;
}

/* 0, or why pages cannot be bound. */
static int probe_binding(int number)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return errno;
    int e = numa_nodes_bind(number, (uintptr_t)page, PAGE, MPOL_PREFERRED, 0);
    munmap(page, PAGE);
    return e;
}

/* ---- finding ------------------------------------------------------------- */

/* The node of the first CPU the process may use, so that the order of the tiers
 * depends on where it may run, not on where it just happens to. */
static int home_node(const struct set *with_cpus)
{
    struct set allowed, cpus;
    char path[64];
    int cpu = 0;
    if (read_set("/proc/self/status", "Cpus_allowed_list:", &allowed))
        while (cpu < NUMA_MOST_NUMBER && !has(&allowed, cpu))
            cpu++;
    for (int n = 0; n < NUMA_MOST_NUMBER && cpu < NUMA_MOST_NUMBER; n++) {
        if (!has(with_cpus, n))
            continue;
        snprintf(path, sizeof path, NODES "node%d/cpulist", n);
        if (read_set(path, "", &cpus) && has(&cpus, cpu))
            return n;
    }
    return -1;
}

static int compare(const void *a, const void *b)
{
    const struct numa_node *x = a, *y = b;
    if (x->cpus != y->cpus)
        return x->cpus ? -1 : 1;
    if (x->distance != y->distance)
        return x->distance - y->distance;
    return x->number - y->number;
}

/* One tier, whatever nodes its memory lies on. */
static void one_tier(struct numa_nodes *out, int number)
{
    out->count = 1;
    out->node[0] = (struct numa_node){.number = number, .cpus = true, .distance = NEAR};
}

void numa_nodes_find(struct numa_nodes *out)
{
    struct set allowed, memory, cpus;
    struct numa_node all[NUMA_MOST_NUMBER];
    int n = 0;
    *out = (struct numa_nodes){0};
    all[0].number = -1;
    if (read_set("/proc/self/status", "Mems_allowed_list:", &allowed) &&
        read_set(NODES "has_memory", "", &memory))
        for (int i = 0; i < NUMA_MOST_NUMBER; i++)
            if (has(&allowed, i) && has(&memory, i))
                all[n++] = (struct numa_node){.number = i};
    out->allowed = n;
    if (n <= 1) {
        one_tier(out, all[0].number);
        return;
    }
    int e = probe_binding(all[0].number);
    if (e) {
        one_tier(out, -1);
        snprintf(out->unbound, sizeof out->unbound, "not bound to nodes (mbind: %.40s): allow "
                 "mbind in the container's seccomp profile", strerrordesc_np(e));
        return;
    }
    read_set(NODES "has_cpu", "", &cpus);
    int home = home_node(&cpus);
    for (int i = 0; i < n; i++) {
        all[i].cpus = has(&cpus, all[i].number);
        all[i].distance = home < 0 ? 0 : numa_nodes_distance(home, all[i].number);
    }
    qsort(all, (size_t)n, sizeof all[0], compare);
    out->count = n < NUMA_MOST ? n : NUMA_MOST;
    memcpy(out->node, all, (size_t)out->count * sizeof all[0]);
}
