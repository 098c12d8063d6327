/* loop.h - one loop over tensors, run by several ways to hold more than memory.
 *
 * A loop says which tensors there are, which of them each visit of a step uses
 * and how, and what it computes on them. An engine brings the tensors of each
 * visit to memory, calls the computation, and takes care of what does not fit:
 * terrace, the kernel's swap, a mapped file, a pipeline written for the loop,
 * StarPU. Loops know nothing of engines and engines nothing of loops, so that
 * all engines do the same work, and end with the same checksum.
 *
 *   adam.c inference.c random.c   loops, each a program
 *   loop/main.c                   arguments, measured steps, checksum, JSON
 *   loop/engine_*.c               engines
 */
#ifndef BENCH_LOOP_H
#define BENCH_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LOOP_MOST = 4, LOOP_PAGE = 4096, LOOP_MIB = 1 << 20 };

/* The tensors used at one time: 'r' reads, 'w' changes, 'o' overwrites. */
typedef struct visit {
    unsigned n;
    uint32_t tensor[LOOP_MOST];
    char mode[LOOP_MOST];
} visit;

typedef struct loop loop;

/* What is done over and over: the visits of one step in their order. `plan` is
 * a pure function, so that an engine may look ahead, also into the next step,
 * where `known`. `address` of compute is in the order of the visit's tensors. */
typedef struct work {
    size_t visits;
    bool known;   /* the order may be relied on */
    bool ordered; /* a visit needs the results of the one before */
    void (*plan)(const loop *l, uint64_t step, size_t i, visit *out);
    void (*compute)(loop *l, uint64_t step, size_t i, void *const *address);
} work;

typedef struct loop_options {
    size_t size, piece; /* bytes of all tensors, of one */
    const char *kind;   /* a loop's own choice; NULL: its default */
    const char *engine, *advice, *folder, *policy;
    size_t limit;       /* bytes of memory an engine may take for tensors */
    size_t ahead;       /* visits to look ahead */
    unsigned warm, steps;
    double seconds;     /* no new step begins after these */
    bool trace;         /* print the accesses for bound.py instead */
} loop_options;

struct loop {
    const loop_options *options;
    work step;
    size_t tensors;
    size_t *bytes;    /* of each tensor: whole pages */
    const char *file; /* where the tensors come from, one after the other; they
                       * are only read. NULL: `fill` makes them in memory */
    void (*fill)(const loop *l, size_t tensor, void *address);
    uint64_t (*result)(const loop *l); /* digest of what came out; NULL: of the tensors */
    uint64_t *sums;   /* of each tensor, by main.c */
    void *own;        /* the loop's */
};

/* Bytes an engine moved to and from the disk. */
typedef struct traffic {
    uint64_t read, written;
} traffic;

typedef struct engine {
    const char *name;
    const char *advice;  /* what it is told unless --advice says otherwise; NULL: nothing */
    bool limited;        /* it keeps to a limit by itself */
    bool known;          /* it can only run work whose order is known */
    bool fills;          /* it does not use a loop's file, but fills its tensors */
    void *(*open)(const loop *l);
    /* Runs one step; `more`: another step of the same work follows. */
    void (*run)(void *self, loop *l, const work *w, uint64_t step, bool more);
    traffic (*moved)(void *self); /* NULL: it cannot tell */
    void (*close)(void *self);
} engine;

extern const engine engine_terrace, engine_ram, engine_swap, engine_mmap, engine_pipeline;

/* The loop's program: reads the arguments into `defaults`, lets `prepare` set
 * the loop up, and runs it. */
int loop_main(int argc, char **argv, loop_options defaults, void (*prepare)(loop *l));

#pragma GCC visibility push(default) /* for engines that are modules */

/* Ends the program with a line on stderr. */
__attribute__((noreturn, format(printf, 1, 2))) void loop_fail(const char *format, ...);

void *loop_need(void *allocated);
size_t loop_bytes(const loop *l);                    /* of all tensors */
uint64_t *loop_offsets(const loop *l);               /* of each in a file of all; free() it */
void *loop_map(size_t bytes);                        /* anonymous, zero, in huge pages if there are any */
int loop_spill(const loop *l, size_t bytes, int flags); /* an unnamed file of that size */
bool loop_advised(const loop *l, const char *advice);

#pragma GCC visibility pop

static inline uint64_t loop_mix(uint64_t x)
{
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

#endif
