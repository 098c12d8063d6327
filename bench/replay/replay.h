/* replay.h - traces, and how they are replayed: what the files of bench/policy share. */
#ifndef TERRACE_BENCH_REPLAY_H
#define TERRACE_BENCH_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "policy.h"
#include "terrace.h"

enum { MOST_STEPS = 64 };
static const uint64_t MIB = 1 << 20;
static const uint64_t RATE = 2000000000; /* of the model's disk, bytes per second */

/* ---- traces.c ---- */

enum op_kind { OP_NEW, OP_USE, OP_FREE, OP_STEP, OP_CHANCE };

struct op {
    enum op_kind kind;
    unsigned item, mode;
    uint64_t ns; /* computed after the use */
};

struct trace {
    const char *name;
    struct op *op;
    size_t ops, room;
    uint64_t *bytes; /* by item */
    unsigned items, items_room;
    unsigned steps;
    uint64_t budget;
    bool equal;    /* sizes */
    bool random;   /* nothing to learn */
    bool chances;  /* at each OP_CHANCE a die is cast: the order of what follows is not known before */
    bool unmarked; /* the program says nothing of steps */
    unsigned learned; /* steps, after which it is to be known */
};

enum { R = TERRACE_READ, W = TERRACE_READ | TERRACE_WRITE, O = TERRACE_OVERWRITE };

/* What trace_of() makes a trace of, counted from 0; NULL: there are no more. */
const char *scene_name(int scene);

/* Ends the program where there is no memory. */
void *must(void *p);
uint64_t trace_draw(uint64_t below);
struct trace trace_of(int scene);
void trace_free(struct trace *t);
void trace_dump(const struct trace *t);
/* For every use the index of the item's next use; SIZE_MAX: none, or freed. */
size_t *trace_future(const struct trace *t);
/* Where nothing is to be gained from keeping the bytes. */
bool trace_worthless(const struct trace *t, size_t next);

/* ---- replay.c ---- */

enum way { WAY_LRU, WAY_2Q, WAY_LEARNED, WAY_BELADY, WAY_INFORMED, WAYS };

struct tensor {
    struct policy_node node;
    struct schedule_item item;
    uint64_t bytes;
    bool resident, dirty, written, gone; /* written: the disk has the bytes */
    bool coming, leaving;    /* the model: its transfer is under way */
    bool early;              /* brought ahead of its use */
    size_t next;  /* belady, informed: its next use, as far as it is known to them */
    size_t truly; /* informed: its next use */
    uint64_t done; /* the model: when its transfer ends */
};

/* What the informed one knows of the time after a die was cast. */
struct chances {
    size_t *coming; /* by operation: the next OP_CHANCE, or the end */
    size_t *mean;   /* by item: operations from an OP_CHANCE to its next use, on average; SIZE_MAX: none */
};

struct replay {
    const struct trace *t;
    enum way way;
    struct policy policy;
    struct schedule schedule;
    struct tensor *tensor;
    struct chances chances;
    uint64_t held;
    uint64_t read[MOST_STEPS], wrote[MOST_STEPS];
    unsigned s;
};

void replay_open(struct replay *r, const struct trace *t, enum way way);
void replay_close(struct replay *r);
struct tensor *replay_tensor(struct policy_node *n);
void replay_drop(struct replay *r, struct tensor *x);
void replay_new(struct replay *r, unsigned item);
void replay_free(struct replay *r, unsigned item);
void replay(const struct trace *t, enum way way, uint64_t *read, uint64_t *wrote);

/* ---- clock.c ---- */

/* Seconds of an average step from `from` on. */
double clock_model(const struct trace *t, enum way way, double scale, unsigned from);

#endif
