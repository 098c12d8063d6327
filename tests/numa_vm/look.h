/* look.h - where pages are and what they are like, as the kernel tells it. */
#ifndef TERRACE_TESTS_NUMA_VM_LOOK_H
#define TERRACE_TESTS_NUMA_VM_LOOK_H

#include <criterion/criterion.h>
#include <numaif.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK __attribute__((unused)) static

/* How many pages of a range that has been written are on a node. Each is read
 * first: move_pages does not see what NUMA balancing watches. */
LOOK size_t pages_on(int node, const void *address, size_t bytes)
{
    size_t n = 0;
    for (size_t at = 0; at < bytes; at += 4096) {
        void *page = (char *)(uintptr_t)address + at;
        int status = -1;
        (void)*(volatile char *)page;
        cr_assert_eq(move_pages(0, 1, &page, NULL, &status, 0), 0);
        n += status == node;
    }
    return n;
}

#define assert_all_on(node, address, bytes)                                                   \
    do {                                                                                      \
        size_t on_node = pages_on(node, address, bytes);                                      \
        cr_assert_eq(on_node, (bytes) / 4096, "%zu of %zu pages are on node %d", on_node,     \
                     (size_t)(bytes) / 4096, node);                                           \
    } while (0)

/* The line of /proc/self/numa_maps for the mapping that holds an address. */
LOOK void numa_maps(const void *address, char *line, size_t len)
{
    FILE *f = fopen("/proc/self/numa_maps", "r");
    unsigned long start, best = 0;
    char text[1024];
    line[0] = 0;
    while (f && fgets(text, sizeof text, f))
        if (sscanf(text, "%lx", &start) == 1 && start <= (uintptr_t)address && start >= best) {
            best = start;
            snprintf(line, len, "%s", text);
        }
    if (f)
        fclose(f);
}

/* A figure of the mapping in /proc/self/smaps that holds an address, in KiB. */
LOOK long smaps(const void *address, const char *key)
{
    FILE *f = fopen("/proc/self/smaps", "r");
    unsigned long start, end;
    char text[1024];
    bool inside = false;
    long value = -1;
    while (f && value < 0 && fgets(text, sizeof text, f)) {
        if (sscanf(text, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && strncmp(text, key, strlen(key)) == 0)
            value = strtol(text + strlen(key), NULL, 10);
    }
    if (f)
        fclose(f);
    return value;
}

LOOK long number_in(const char *path, const char *key)
{
    FILE *f = fopen(path, "r");
    char text[256];
    long value = -1;
    while (f && value < 0 && fgets(text, sizeof text, f)) {
        const char *at = strstr(text, key);
        if (at)
            value = strtol(at + strlen(key), NULL, 10);
    }
    if (f)
        fclose(f);
    return value;
}

LOOK size_t free_on(int node)
{
    char path[64];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", node);
    return (size_t)number_in(path, "MemFree:") << 10;
}

#endif
