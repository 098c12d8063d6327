/* alloc.c - what an allocation costs, next to other allocators.
 *
 * usage: alloc MODULES-DIR TRACE ROUNDS PARTS [NAME=LIBRARY:ALLOC:FREE ...]
 *
 * All allocators are loaded into this process and take turns in slices of some
 * milliseconds, so that what else the machine does meets all alike. Of two threads
 * each has a CPU of its own. None of the
 * memory is touched: terrace's addresses may be a device's. For each size:
 *   pair    allocate, free;
 *   random  out of many that are allocated one is freed, another allocated;
 *   batch   very many are allocated, then freed in the same order.
 * And trace: what a trainer created and destroyed, as recorded in TRACE, over and
 * over from its first event to its last; what is left then is freed. PARTS names
 * what is measured, as in "pair,random,batch,trace,large"; large is how much memory
 * tensors of 3 MiB to 8 GiB take of a tier.
 *
 * A trace is text, one event a line: "new ITEM BYTES", "free ITEM", "step" where a
 * step of the program ends; lines that begin with '#' are comments.
 *
 * Prints one JSON object: medians in nanoseconds per allocation with its free. */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "terrace.h"

enum { ALLOCATORS = 12, MOST_THREADS = 2, MOST_HELD = 8192, MOST_ROUNDS = 64,
       FIRST_TURNS = 10000, SLICE_NS = 3000000 };
static const size_t MOST_ALIVE = (size_t)16 << 30; /* bytes of a trace at a time */

struct allocator {
    char name[40];
    void *(*alloc)(size_t bytes);
    void (*free)(void *p, size_t bytes);
    char why_not[200];
    size_t least; /* bytes it is meant for */
};

static struct allocator allocators[ALLOCATORS];
static unsigned allocators_n;

static void must(int r, const char *what)
{
    if (r) {
        fprintf(stderr, "bench/alloc: %s: %s\n", what, terrace_last_error());
        exit(1);
    }
}

/* ---- the allocators ------------------------------------------------------ */

/* Frees of others take no size. */
#define FREE_OF(i) \
    static void (*free_##i)(void *); \
    static void free_sized_##i(void *p, size_t bytes) { (void)bytes; free_##i(p); }
FREE_OF(0) FREE_OF(1) FREE_OF(2) FREE_OF(3) FREE_OF(4) FREE_OF(5)
static void (**const free_plain[])(void *) = {&free_0, &free_1, &free_2, &free_3, &free_4, &free_5};
static void (*const free_sized[])(void *, size_t) = {free_sized_0, free_sized_1, free_sized_2,
                                                     free_sized_3, free_sized_4, free_sized_5};
enum { PLAIN = sizeof free_plain / sizeof free_plain[0] };
static unsigned plain_n;

static struct allocator *add(const char *name)
{
    struct allocator *a = &allocators[allocators_n++];
    snprintf(a->name, sizeof a->name, "%s", name);
    return a;
}

static void add_plain(struct allocator *a, void *(*alloc)(size_t), void (*give)(void *))
{
    *free_plain[plain_n] = give;
    a->alloc = alloc;
    a->free = free_sized[plain_n++];
}

static void *load(struct allocator *a, const char *path)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        snprintf(a->why_not, sizeof a->why_not, "%s", dlerror());
    return library;
}

static void **memkind_default;
static void *(*memkind_malloc)(void *, size_t);
static void (*memkind_free)(void *, void *);

static void *of_memkind(size_t bytes)
{
    return memkind_malloc(*memkind_default, bytes);
}

static void to_memkind(void *p)
{
    memkind_free(*memkind_default, p);
}

/* NAME=LIBRARY:ALLOC:FREE */
static void add_peer(char *text)
{
    char *path = strchr(text, '='), *alloc, *give;
    if (!path || allocators_n == ALLOCATORS || plain_n == PLAIN)
        return;
    *path++ = '\0';
    struct allocator *a = add(text);
    alloc = strchr(path, ':');
    give = alloc ? strchr(alloc + 1, ':') : NULL;
    if (!give)
        return;
    *alloc++ = *give++ = '\0';
    void *library = load(a, path);
    if (!library)
        return;
    if (!strcmp(alloc, "memkind_malloc")) {
        memkind_default = dlsym(library, "MEMKIND_DEFAULT");
        memkind_malloc = (void *(*)(void *, size_t))dlsym(library, alloc);
        memkind_free = (void (*)(void *, void *))dlsym(library, give);
        add_plain(a, of_memkind, to_memkind);
    } else {
        add_plain(a, (void *(*)(size_t))dlsym(library, alloc), (void (*)(void *))dlsym(library, give));
    }
}

static bool (*fragmentation)(uint64_t, int, double *, double *, double *);

static void add_own(const char *folder)
{
    char path[512];
    struct allocator *heap = add("terrace heap"), *range = add("terrace range"), *je = add("private jemalloc");
    snprintf(path, sizeof path, "%s/heap.so", folder);
    void *library = load(heap, path);
    if (!library) {
        fprintf(stderr, "bench/alloc: %s\n", heap->why_not);
        exit(1);
    }
    ((void (*)(void))dlsym(library, "bench_open"))();
    heap->alloc = (void *(*)(size_t))dlsym(library, "bench_alloc");
    heap->free = (void (*)(void *, size_t))dlsym(library, "bench_free");
    range->alloc = (void *(*)(size_t))dlsym(library, "bench_range_alloc");
    range->free = (void (*)(void *, size_t))dlsym(library, "bench_range_free");
    range->least = 4096;
    fragmentation = (bool (*)(uint64_t, int, double *, double *, double *))dlsym(library, "bench_fragmentation");
    snprintf(path, sizeof path, "%s/jemalloc.so", folder);
    library = load(je, path);
    if (library) {
        je->alloc = (void *(*)(size_t))dlsym(library, "bench_alloc");
        je->free = (void (*)(void *, size_t))dlsym(library, "bench_free");
        if (!je->alloc)
            snprintf(je->why_not, sizeof je->why_not, "this build has none");
    }
    add_plain(add("glibc"), malloc, free);
}

/* The manager's own calls: a tensor made and destroyed. */
static terrace *manager;

static void *tensor_make(size_t bytes)
{
    terrace_tensor *t;
    must(terrace_tensor_create(manager, bytes, NULL, &t), "creating a tensor");
    return t;
}

static void tensor_end(void *p, size_t bytes)
{
    (void)bytes;
    terrace_tensor_destroy(p);
}

/* ---- what is done -------------------------------------------------------- */

enum pattern { PAIR, RANDOM, BATCH, TRACE, PATTERNS };
static const char *const pattern_name[] = {"pair", "random", "batch", "trace"};

struct step {
    int slot;
    bool free;    /* what is there, else allocate there */
    size_t bytes;
};

static struct step *steps;
static size_t steps_n;

static void step_add(int slot, size_t bytes, bool give)
{
    static size_t room;
    if (steps_n == room) {
        room = room ? 2 * room : 1024;
        steps = realloc(steps, room * sizeof *steps);
        if (!steps)
            exit(1);
    }
    steps[steps_n++] = (struct step){slot, give, bytes};
}

static const char *trace_path;
static unsigned trace_line;
static size_t trace_alive;

__attribute__((noreturn)) static void trace_bad(const char *what)
{
    fprintf(stderr, "bench/alloc: %s, line %u: %s; record one anew with bench/alloc.py --record\n",
            trace_path, trace_line, what);
    exit(1);
}

/* What is alive while a trace is read. */
static struct item {
    unsigned long long name;
    size_t bytes; /* 0: the slot is free */
} item[MOST_HELD];

static int item_find(unsigned long long name)
{
    int slot = 0;
    while (slot < MOST_HELD && !(item[slot].bytes && item[slot].name == name))
        slot++;
    return slot;
}

static void trace_new(unsigned long long name, size_t bytes)
{
    int slot = 0;
    if (!bytes || bytes > MOST_ALIVE - trace_alive)
        trace_bad(bytes ? "more bytes are alive than can be replayed" : "a tensor cannot have no bytes");
    if (item_find(name) < MOST_HELD)
        trace_bad("this item exists already");
    while (slot < MOST_HELD && item[slot].bytes)
        slot++;
    if (slot == MOST_HELD)
        trace_bad("more items are alive than can be replayed");
    item[slot] = (struct item){name, bytes};
    trace_alive += bytes;
    step_add(slot, bytes, false);
}

static void trace_free(int slot)
{
    if (slot == MOST_HELD)
        trace_bad("there is no such item to free");
    step_add(slot, item[slot].bytes, true);
    trace_alive -= item[slot].bytes;
    item[slot].bytes = 0;
}

/* The next number of a line; its end must follow the last one. */
static unsigned long long trace_number(const char **at, bool last)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(*at, &end, 10);
    if (end == *at || errno || **at == '-' || *end != (last ? '\n' : ' '))
        trace_bad("neither 'new ITEM BYTES' nor 'free ITEM' nor 'step'");
    *at = end + 1;
    return n;
}

/* Reads an event; true: a step ends. */
static bool trace_event(const char *line)
{
    const char *at = strchr(line, ' ');
    bool add = !strncmp(line, "new ", 4), end = !strcmp(line, "step\n");
    if (*line == '#' || end)
        return end;
    if (!at || (!add && strncmp(line, "free ", 5) != 0))
        trace_bad("neither 'new ITEM BYTES' nor 'free ITEM' nor 'step'");
    at++;
    unsigned long long name = trace_number(&at, !add);
    if (add)
        trace_new(name, trace_number(&at, true));
    else
        trace_free(item_find(name));
    return false;
}

static void trace_read(const char *path)
{
    char line[200];
    unsigned ended = 0;
    FILE *f = fopen(path, "r");
    trace_path = path;
    if (!f) {
        fprintf(stderr, "bench/alloc: the trace %s cannot be read: %s; record one with bench/alloc.py --record\n",
                path, strerror(errno));
        exit(1);
    }
    while (fgets(line, sizeof line, f)) {
        trace_line++;
        ended += trace_event(line);
    }
    bool well = !ferror(f);
    fclose(f);
    if (!well || !ended || !steps_n)
        trace_bad(!well ? "it cannot be read" : "the end, but nothing was created or no step has ended");
    for (int slot = 0; slot < MOST_HELD; slot++)
        if (item[slot].bytes)
            trace_free(slot);
}

struct work {
    const struct allocator *allocator;
    enum pattern pattern;
    size_t bytes;
    int turns, number;
    double ns;
    pthread_barrier_t *start;
};

static double now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

/* How many are held at a time. */
static size_t held(const struct work *w)
{
    size_t most = w->pattern == RANDOM ? 1024 : MOST_HELD, n = ((size_t)256 << 20) / w->bytes;
    return n > most ? most : n + !n;
}

static size_t pairs(void **at, const struct work *w)
{
    const struct allocator *a = w->allocator;
    for (int i = 0; i < w->turns; i++) {
        at[0] = a->alloc(w->bytes);
        a->free(at[0], w->bytes);
    }
    return (size_t)w->turns;
}

static size_t randoms(void **at, const struct work *w)
{
    const struct allocator *a = w->allocator;
    size_t n = held(w);
    uint32_t x = 12345;
    for (int i = 0; i < w->turns; i++) {
        x = x * 1664525 + 1013904223;
        void **p = &at[(x >> 8) % n];
        a->free(*p, w->bytes);
        *p = a->alloc(w->bytes);
    }
    return (size_t)w->turns;
}

static size_t batches(void **at, const struct work *w)
{
    const struct allocator *a = w->allocator;
    size_t n = held(w), done = 0;
    for (; done < (size_t)w->turns; done += n) {
        for (size_t i = 0; i < n; i++)
            at[i] = a->alloc(w->bytes);
        for (size_t i = 0; i < n; i++)
            a->free(at[i], w->bytes);
    }
    return done;
}

static size_t traces(void **at, const struct work *w)
{
    const struct allocator *a = w->allocator;
    size_t done = 0;
    for (; done < (size_t)w->turns; done += steps_n / 2)
        for (size_t i = 0; i < steps_n; i++) {
            const struct step *s = &steps[i];
            if (s->free)
                a->free(at[s->slot], s->bytes);
            else
                at[s->slot] = a->alloc(s->bytes);
        }
    return done;
}

/* Onto the CPU of that number among those the process may use. */
static void settle_on(int number)
{
    cpu_set_t all, one;
    int cpu = -1;
    if (sched_getaffinity(0, sizeof all, &all) || CPU_COUNT(&all) <= number)
        return;
    for (int n = -1; n < number;)
        n += CPU_ISSET(++cpu, &all) != 0;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    sched_setaffinity(0, sizeof one, &one);
}

static void *work_main(void *arg)
{
    static size_t (*const run[])(void **, const struct work *) = {pairs, randoms, batches, traces};
    struct work *w = arg;
    void **at = calloc(MOST_HELD, sizeof *at);
    if (!at)
        exit(1);
    settle_on(w->number);
    for (size_t i = 0; w->pattern == RANDOM && i < held(w); i++)
        at[i] = w->allocator->alloc(w->bytes);
    for (int warm = 1; warm >= 0; warm--) { /* once to warm up and learn, then in earnest */
        pthread_barrier_wait(w->start);
        double start = now_ns();
        size_t n = run[w->pattern](at, w);
        w->ns = (now_ns() - start) / (double)n;
        w->turns = w->ns > 1 ? (int)(SLICE_NS / w->ns) + 1 : SLICE_NS;
        pthread_barrier_wait(w->start);
    }
    for (size_t i = 0; w->pattern == RANDOM && i < held(w); i++)
        w->allocator->free(at[i], w->bytes);
    free(at);
    return NULL;
}

/* The mean of the threads. */
static double measure(const struct allocator *a, enum pattern pattern, size_t bytes, int threads)
{
    struct work work[MOST_THREADS];
    pthread_t thread[MOST_THREADS];
    pthread_barrier_t start;
    double sum = 0;
    pthread_barrier_init(&start, NULL, (unsigned)threads);
    for (int i = 0; i < threads; i++) {
        work[i] = (struct work){a, pattern, bytes, FIRST_TURNS, i, 0, &start};
        if (pthread_create(&thread[i], NULL, work_main, &work[i]))
            exit(1);
    }
    for (int i = 0; i < threads; i++) {
        pthread_join(thread[i], NULL);
        sum += work[i].ns;
    }
    pthread_barrier_destroy(&start);
    return sum / threads;
}

/* ---- measuring ----------------------------------------------------------- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median(double *v, int n)
{
    qsort(v, (size_t)n, sizeof *v, by_value);
    return v[n / 2];
}

/* Every allocator's turn, `rounds` times; the ratio is the first's rate to the
 * private jemalloc's in the same round. */
static void measure_all(enum pattern pattern, size_t bytes, int threads, int rounds, bool first)
{
    static double ns[ALLOCATORS][MOST_ROUNDS], ratio[MOST_ROUNDS];
    const struct allocator *je = &allocators[2];
    double once = 1;
    for (int r = 0; r < rounds; r++) {
        for (unsigned i = 0; i < allocators_n; i++)
            if (allocators[i].alloc && bytes >= allocators[i].least)
                ns[i][r] = measure(&allocators[i], pattern, bytes, threads);
        ratio[r] = je->alloc ? ns[2][r] / ns[0][r] : once;
    }
    printf("%s\n {\"pattern\": \"%s\", \"bytes\": %zu, \"threads\": %d", first ? "" : ",",
           pattern_name[pattern], pattern == TRACE ? 0 : bytes, threads);
    if (je->alloc)
        printf(", \"ratio\": %.3f", median(ratio, rounds));
    printf(", \"ns\": {");
    for (unsigned i = 0, n = 0; i < allocators_n; i++)
        if (allocators[i].alloc && bytes >= allocators[i].least)
            printf("%s\"%s\": %.1f", n++ ? ", " : "", allocators[i].name, median(ns[i], rounds));
    printf("}}");
    fflush(stdout);
}

static bool wanted(const char *parts, const char *name)
{
    size_t n = strlen(name);
    for (const char *at = parts; (at = strstr(at, name)) != NULL; at += n)
        if ((at == parts || at[-1] == ',') && (at[n] == ',' || !at[n]))
            return true;
    return false;
}

static void rates(int rounds, const char *parts)
{
    static const size_t sizes[] = {16, 32, 48, 64, 100, 128, 256, 512, 1000, 1024, 2048, 4096, 5000, 8192,
                                   12288, 16384, 20000, 32768, 65536, 100000, 131072, 262144, 524288, 1048576};
    enum { SIZES = sizeof sizes / sizeof sizes[0], MIB = SIZES - 1 };
    bool first = true;
    printf("\"rates\": [");
    for (int threads = 1; threads <= MOST_THREADS; threads++)
        for (enum pattern p = PAIR; p <= TRACE; p++)
            for (size_t i = p == TRACE ? MIB : 0; wanted(parts, pattern_name[p]) && i < SIZES; i++, first = false)
                measure_all(p, sizes[i], threads, rounds, first);
    printf("]");
}

static void large(void)
{
    double peak = 0, mean = 0, worst = 0;
    uint64_t live = UINT64_C(64) << 30;
    bool well = fragmentation(live, 20000, &peak, &mean, &worst);
    printf(",\n\"large\": {\"least\": %d, \"most\": %lld, \"tensors\": 20000, \"fits_in_1.02\": %s, "
           "\"peak_committed_per_peak_live\": %.4f, \"mean_committed_per_live\": %.4f, "
           "\"worst_tensor\": %.4f}",
           3 << 20, 8LL << 30, well ? "true" : "false", peak, mean, worst);
}

int main(int argc, char **argv)
{
    if (argc < 5) {
        fputs("usage: alloc MODULES-DIR TRACE ROUNDS PARTS [NAME=LIBRARY:ALLOC:FREE ...]\n", stderr);
        return 2;
    }
    int rounds = (int)strtol(argv[3], NULL, 0);
    rounds = rounds < 1 ? 1 : rounds > MOST_ROUNDS ? MOST_ROUNDS : rounds;
    if (wanted(argv[4], "trace"))
        trace_read(argv[2]);
    add_own(argv[1]);
    for (int i = 5; i < argc; i++)
        add_peer(argv[i]);
    must(terrace_open(&manager, "tiers=numa;limit_host=64M"), "opening");
    struct allocator *tensors = add("terrace_tensor_create");
    tensors->alloc = tensor_make;
    tensors->free = tensor_end;
    printf("{\"bench\": \"alloc\", \"rounds\": %d,\n\"not_run\": {", rounds);
    for (unsigned i = 0, n = 0; i < allocators_n; i++)
        if (!allocators[i].alloc)
            printf("%s\"%s\": \"%s\"", n++ ? ", " : "", allocators[i].name, allocators[i].why_not);
    printf("},\n");
    rates(rounds, argv[4]);
    if (wanted(argv[4], "large"))
        large();
    printf("}\n");
    terrace_close(manager);
    return 0;
}
