/* area.h - ranges of addresses that devices know, and what is behind them.
 *
 * An area is address space of this process: a reservation, into which physical
 * memory is mapped; memory allocated at once; or page-locked host memory. The
 * first two cannot be touched by the process at their own addresses; a second
 * mapping of the same length, the shadow, is where the simulation reaches the
 * bytes. Inside the engine only; all under its lock. */
#ifndef TERRACE_TESTS_SIM_AREA_H
#define TERRACE_TESTS_SIM_AREA_H

#include "engine.h"

struct physical {
    uint64_t handle;
    enum place place;
    int id; /* of the device or node */
    uint64_t bytes;
    uint64_t at; /* in the engine's file of physical memory */
    unsigned mappings;
    bool released; /* the handle was; the memory stays while it is mapped */
};

struct mapping {
    uint64_t base, bytes;
    struct physical *physical;
    unsigned char access[MAX_DEVICES];
};

enum area_kind { AREA_RESERVED, AREA_MEMORY, AREA_HOST };

struct area {
    uint64_t base, bytes;
    enum area_kind kind;
    char *shadow;          /* of host memory: itself */
    struct device *device; /* whose memory; of host memory: who registered it */
    bool there;            /* memory of a stream-ordered allocation: that was reached */
    bool freed;            /* its stream-ordered free was asked for */
    bool ordered;          /* it is such an allocation */
    bool allocated;        /* host memory of the runtime's own, not registered */
    struct mapping *maps;  /* in a reservation, by address */
    unsigned n_maps;
};

/* Adds an area; false for want of memory. It is the index's until removed. */
bool area_add_locked(const struct area *area, struct area **out);
void area_remove_locked(struct area *area);
/* The one an address is in, NULL: none; and the first that overlaps a range. */
struct area *area_at_locked(uint64_t address);
struct area *area_overlapping_locked(uint64_t base, uint64_t bytes);
struct area *area_number_locked(unsigned i);

/* Address space that the process cannot touch, aligned; 0: there is none. */
uint64_t area_reserve(uint64_t bytes, uint64_t align, uint64_t hint);
/* Memory for a shadow, NULL: there is none. Accessible, or not yet. */
char *area_shadow(uint64_t bytes, bool accessible);

/* The first mapping that ends after an address. */
unsigned area_map_after(const struct area *area, uint64_t address);

/* Where the bytes of a range are that `device` wants to use. `copying`: by its
 * copy engine, which also reaches what only the other device may. 0, SIM_EINVAL:
 * no such memory, SIM_EILLEGAL: not mapped, not accessible, not yet or no more. */
int area_resolve_locked(const struct device *device, bool copying, uint64_t address, uint64_t bytes,
                        unsigned access, char **at);

/* A range that work under way uses, in a list of the engine's. */
struct use {
    uint64_t base, bytes;
    bool write;
    const struct stream *stream;
    struct use *next;    /* in the engine's list */
    struct use *sibling; /* of the same piece of work */
};
void use_begin_locked(struct use *use);
void use_end_locked(struct use *use);
/* Before a range goes away: waits until nothing uses it, which is a misuse. */
void use_wait_locked(uint64_t base, uint64_t bytes, const char *what);

#endif /* TERRACE_TESTS_SIM_AREA_H */
