/* pci.h - what the system knows of a device on the bus.
 * May call: libc. */
#ifndef TERRACE_OFFLOAD_PCI_H
#define TERRACE_OFFLOAD_PCI_H

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The first line of a file, without its end. */
static inline bool read_line(const char *path, char *buf, size_t len)
{
    FILE *file = fopen(path, "re");
    bool read = file && fgets(buf, (int)len, file);
    if (file)
        fclose(file);
    if (read)
        buf[strcspn(buf, "\n")] = '\0';
    return read;
}

/* As the system writes it: "0000:3b:00.0". */
static inline void pci_lower(char *bus)
{
    for (char *c = bus; *c; c++)
        *c = (char)tolower((unsigned char)*c);
}

/* The NUMA node that it is next to; -1: not known. */
static inline int pci_node(const char *bus)
{
    char path[128], line[32];
    snprintf(path, sizeof path, "/sys/bus/pci/devices/%.40s/numa_node", bus);
    return *bus && read_line(path, line, sizeof line) ? (int)strtol(line, NULL, 10) : -1;
}

#endif
