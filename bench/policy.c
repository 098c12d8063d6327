/* policy.c - misses of the learned schedule, replayed without I/O.
 *
 * Traces of what training and inference do are replayed against a memory of a
 * given size, by the library's own schedule and policy, by LRU, by 2Q, by Belady
 * (which sees the future), by Belady informed only of what is decided already (of
 * what depends on a die not yet cast it knows the average distance) and against
 * the bound of bytes that may be evicted one by one. Belady counts reads alone; the
 * library keeps what would be written again and again a little longer, so both
 * together are compared as well. Then a model with a clock: compute between uses, a
 * disk whose rate reads and writes share, prefetch and write-back as the policy says, next to
 * the bound max(compute, (R + W) / rate). Last, what learning costs per use.
 *
 * Usage: policy [--dump TRACE]; prints a table to stderr and one JSON object to
 * stdout. A dump is the input of bench/bound.py. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "replay/replay.h"

static const char *const way_name[] = {"lru", "2q", "learned", "belady", "informed"};
enum { MODELS = 3 };
static const double model_compute[MODELS] = {1, 2, 3}; /* compute, of the disk's time by the bound */

/* ---- the fractional bound ----------------------------------------------- */

/* Bytes read per step if every byte may be evicted on its own, the furthest
 * next use first. */
static void fractional(const struct trace *t, uint64_t *read)
{
    size_t *next = trace_future(t);
    size_t *due = must(malloc(t->items * sizeof *due));
    uint64_t *in = must(calloc(t->items, sizeof *in)), held = 0;
    unsigned s = 0;
    for (unsigned i = 0; i < t->items; i++)
        due[i] = SIZE_MAX;
    for (size_t i = 0; i < t->ops; i++) {
        const struct op *o = &t->op[i];
        s += o->kind == OP_STEP;
        if (o->kind == OP_FREE) {
            held -= in[o->item];
            in[o->item] = 0;
        }
        if (o->kind != OP_USE)
            continue;
        uint64_t want = t->bytes[o->item] - in[o->item];
        read[s] += o->mode == O ? 0 : want;
        in[o->item] += want;
        held += want;
        while (held > t->budget) {
            unsigned worst = o->item;
            for (unsigned k = 0; k < t->items; k++)
                if (k != o->item && in[k] && (worst == o->item || due[k] > due[worst]))
                    worst = k;
            uint64_t out = held - t->budget < in[worst] ? held - t->budget : in[worst];
            in[worst] -= out;
            held -= out;
        }
        due[o->item] = trace_worthless(t, next[i]) ? SIZE_MAX : next[i];
    }
    free(next);
    free(due);
    free(in);
}

static uint64_t sum(const uint64_t *v, unsigned from, unsigned to)
{
    uint64_t n = 0;
    for (unsigned i = from; i < to; i++)
        n += v[i];
    return n;
}

/* Bytes that have to be written in a step: what it changes and is there at the
 * same time, less the budget. */
static void write_bound(const struct trace *t, uint64_t *wrote)
{
    unsigned *in = must(calloc(t->items, sizeof *in));
    uint64_t changed = 0, most = 0;
    unsigned s = 0;
    for (size_t i = 0; i < t->ops; i++) {
        const struct op *o = &t->op[i];
        if (o->kind == OP_USE && o->mode != R && in[o->item] != s + 1) {
            in[o->item] = s + 1;
            changed += t->bytes[o->item];
            most = changed > most ? changed : most;
        } else if (o->kind == OP_FREE && in[o->item] == s + 1) {
            changed -= t->bytes[o->item];
        } else if (o->kind == OP_STEP) {
            wrote[s++] = most > t->budget ? most - t->budget : 0;
            changed = most = 0;
        }
    }
    free(in);
}

/* ---- the table ----------------------------------------------------------- */

static double ratio(uint64_t a, uint64_t b)
{
    return b ? (double)a / (double)b : a ? 999.0 : 1.0;
}

static uint64_t computed(const struct trace *t, unsigned from)
{
    uint64_t ns = 0;
    unsigned s = 0;
    for (size_t i = 0; i < t->ops; i++) {
        s += t->op[i].kind == OP_STEP;
        if (t->op[i].kind == OP_USE && s >= from)
            ns += t->op[i].ns;
    }
    return ns;
}

/* How the replay went, in bytes per step once it has been learned. */
struct outcome {
    double read[WAYS], wrote[WAYS], bound_read, bound_written;
    double of_best;  /* read once learned, of what Belady reads (equal sizes) or the bound */
    double moved;    /* read and written once learned, of what Belady moves */
    double of_lru;   /* read while learning, of what LRU reads */
    double all_lru;  /* read in all, of what LRU reads */
    double seconds[MODELS], lru_seconds[MODELS], bound_seconds[MODELS];
};

static double average(const uint64_t *v, unsigned from, unsigned to)
{
    return (double)sum(v, from, to) / (to - from);
}

static void misses(const struct trace *t, struct outcome *o)
{
    uint64_t read[WAYS][MOST_STEPS], wrote[WAYS][MOST_STEPS];
    uint64_t bound_read[MOST_STEPS] = {0}, bound_wrote[MOST_STEPS] = {0};
    unsigned from = t->learned, to = t->steps;
    fractional(t, bound_read);
    write_bound(t, bound_wrote);
    for (int way = 0; way < WAYS; way++) {
        replay(t, (enum way)way, read[way], wrote[way]);
        o->read[way] = average(read[way], from, to);
        o->wrote[way] = average(wrote[way], from, to);
    }
    o->bound_read = average(bound_read, from, to);
    o->bound_written = average(bound_wrote, from, to);
    o->of_best = ratio(sum(read[WAY_LEARNED], from, to), sum(t->equal ? read[WAY_BELADY] : bound_read, from, to));
    o->moved = (o->read[WAY_LEARNED] + o->wrote[WAY_LEARNED]) / (o->read[WAY_BELADY] + o->wrote[WAY_BELADY]);
    o->of_lru = ratio(sum(read[WAY_LEARNED], 0, from), sum(read[WAY_LRU], 0, from));
    o->all_lru = ratio(sum(read[WAY_LEARNED], 0, to), sum(read[WAY_LRU], 0, to));
}

static void times(const struct trace *t, struct outcome *o)
{
    unsigned from = t->learned;
    double disk = (o->bound_read + o->bound_written) / (double)RATE;
    double compute = (double)computed(t, from) / 1e9 / (t->steps - from);
    for (int i = 0; i < MODELS; i++) {
        double scale = model_compute[i] * disk / compute;
        o->seconds[i] = clock_model(t, WAY_LEARNED, scale, from);
        o->lru_seconds[i] = clock_model(t, WAY_LRU, scale, from);
        o->bound_seconds[i] = model_compute[i] > 1 ? model_compute[i] * disk : disk;
    }
}

static void print(const struct trace *t, const struct outcome *o, bool first)
{
    double mib = (double)MIB;
    fprintf(stderr, "%-21s", t->name);
    for (int way = 0; way < WAYS; way++)
        if (way == WAY_INFORMED && !t->chances)
            fprintf(stderr, " %11s", "");
        else
            fprintf(stderr, " %5.0f+%-5.0f", o->read[way] / mib, o->wrote[way] / mib);
    fprintf(stderr, " %5.0f+%-5.0f %5.3f %5.3f %5.3f %5.3f |", o->bound_read / mib, o->bound_written / mib,
            o->of_best, o->moved, o->of_lru, o->all_lru);
    for (int i = 0; i < MODELS; i++)
        fprintf(stderr, " %5.3f/%-5.2f", o->seconds[i] / o->bound_seconds[i],
                o->lru_seconds[i] / o->bound_seconds[i]);
    fprintf(stderr, "\n");
    printf("%s\n    {\"trace\": \"%s\", \"budget\": %llu, \"equal_sizes\": %s, \"random\": %s, \"from_step\": %u",
           first ? "" : ",", t->name, (unsigned long long)t->budget, t->equal ? "true" : "false",
           t->random ? "true" : "false", t->learned + 1);
    for (int way = 0; way < (t->chances ? WAYS : WAY_INFORMED); way++)
        printf(", \"%s\": {\"read_bytes\": %.0f, \"written_bytes\": %.0f}", way_name[way],
               o->read[way], o->wrote[way]);
    printf(", \"bound\": {\"read_bytes\": %.0f, \"written_bytes\": %.0f}", o->bound_read, o->bound_written);
    printf(", \"read_of_best\": %.4f, \"moved_of_belady\": %.4f, \"read_of_lru_while_learning\": %.4f, \"read_of_lru\": %.4f, \"model\": [",
           o->of_best, o->moved, o->of_lru, o->all_lru);
    for (int i = 0; i < MODELS; i++)
        printf("%s{\"compute_of_disk\": %.2f, \"seconds\": %.4f, \"lru_seconds\": %.4f, \"bound_seconds\": %.4f}",
               i ? ", " : "", model_compute[i], o->seconds[i], o->lru_seconds[i], o->bound_seconds[i]);
    printf("]}");
}

/* ---- what a use costs ----------------------------------------------------- */

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

enum order { CREATED, SHUFFLED, CHANCE };

/* Median nanoseconds of schedule_use() over rounds of n items each. */
static double use_ns(unsigned n, unsigned rounds, enum order order)
{
    struct schedule s;
    struct schedule_item *item = must(calloc(n, sizeof *item));
    unsigned *turn = must(malloc(n * sizeof *turn));
    double *ns = must(malloc(rounds * sizeof *ns));
    schedule_init(&s);
    for (unsigned i = 0; i < n; i++) {
        schedule_created(&s, &item[i], NULL, MIB);
        turn[i] = i;
    }
    for (unsigned i = n; order == SHUFFLED && i-- > 1;) {
        unsigned k = (unsigned)trace_draw(i + 1), x = turn[i];
        turn[i] = turn[k];
        turn[k] = x;
    }
    for (unsigned round = 0; round < rounds; round++) {
        for (unsigned i = 0; order == CHANCE && i < n; i++)
            turn[i] = (unsigned)trace_draw(n);
        double start = now_ns();
        for (unsigned i = 0; i < n; i++)
            schedule_use(&s, &item[turn[i]], 0, R, 0);
        ns[round] = (now_ns() - start) / n;
    }
    qsort(ns, rounds, sizeof *ns, by_value);
    double median = ns[rounds / 2];
    schedule_free(&s);
    free(item);
    free(turn);
    free(ns);
    return median;
}

static void costs(void)
{
    double learned = use_ns(1000, 1001, SHUFFLED), chance = use_ns(1000, 1001, CHANCE);
    double learning = use_ns(1000, 9, CHANCE), many = use_ns(1000000, 9, CREATED);
    fprintf(stderr, "\na use, ns: %.1f in a learned order of 1,000; %.1f by chance (%.1f until that is noticed); "
            "%.1f for 1,000,000 in creation order\n", learned, chance, learning, many);
    printf("  \"use_ns\": {\"learned\": %.1f, \"chance\": %.1f, \"learning\": %.1f, \"million\": %.1f}\n",
           learned, chance, learning, many);
}

int main(int argc, char **argv)
{
    const char *wanted = argc == 3 && !strcmp(argv[1], "--dump") ? argv[2] : NULL;
    if (argc > 1 && !wanted) {
        fprintf(stderr, "usage: policy [--dump TRACE]\n");
        return 2;
    }
    if (!wanted) {
        fprintf(stderr, "MiB read+written per step, once learned; read: of the best possible; moved: of Belady;\n"
                "read: of LRU while learning, of LRU in all | time of the bound, learned/LRU on demand, at compute %.0f, %.0f and %.0f x disk\n"
                "%-21s %-11s %-11s %-11s %-11s %-11s %-11s  best moved   lru   all\n",
                model_compute[0], model_compute[1], model_compute[2],
                "", "lru", "2q", "learned", "belady", "informed", "bound");
        printf("{\n  \"traces\": [");
    }
    bool found = false;
    for (int i = 0; scene_name(i); i++) {
        struct outcome o = {.of_best = 0};
        if (wanted && strcmp(wanted, scene_name(i)) != 0)
            continue;
        struct trace t = trace_of(i);
        found = true;
        if (wanted) {
            trace_dump(&t);
        } else {
            misses(&t, &o);
            times(&t, &o);
            print(&t, &o, i == 0);
        }
        trace_free(&t);
    }
    if (!wanted) {
        printf("\n  ],\n");
        costs();
        printf("}\n");
    } else if (!found) {
        fprintf(stderr, "policy: there is no trace '%s'\n", wanted);
    }
    return found ? 0 : 2;
}
