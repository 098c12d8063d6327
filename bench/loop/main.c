/* main.c - the program around a loop: see loop.h.
 *
 * Fills the tensors, makes some unmeasured and some measured steps, and adds
 * up a checksum of all tensors. Prints one JSON object. */
#include "loop.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static const engine *const engines[] = {&engine_terrace, &engine_ram, &engine_swap, &engine_mmap,
                                        &engine_pipeline};
enum { ENGINES = sizeof engines / sizeof *engines };

/* ---- for engines and loops ---------------------------------------------- */

void loop_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs(program_invocation_short_name, stderr);
    fputs(": ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(1);
}

void *loop_need(void *allocated)
{
    if (!allocated)
        loop_fail("out of memory");
    return allocated;
}

size_t loop_bytes(const loop *l)
{
    size_t sum = 0;
    for (size_t i = 0; i < l->tensors; i++)
        sum += l->bytes[i];
    return sum;
}

uint64_t *loop_offsets(const loop *l)
{
    uint64_t *offset = loop_need(calloc(l->tensors, sizeof *offset));
    for (size_t i = 1; i < l->tensors; i++)
        offset[i] = offset[i - 1] + l->bytes[i - 1];
    return offset;
}

void *loop_map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        loop_fail("no address space");
    return p;
}

int loop_spill(const loop *l, size_t bytes, int flags)
{
    int fd = open(l->options->folder, O_RDWR | O_TMPFILE | flags, 0600);
    if (fd < 0)
        loop_fail("no file in %s: %s", l->options->folder, strerror(errno));
    int error = posix_fallocate(fd, 0, (off_t)bytes);
    if (error)
        loop_fail("no room in %s: %s", l->options->folder, strerror(error));
    return fd;
}

bool loop_advised(const loop *l, const char *advice)
{
    return l->options->advice && strstr(l->options->advice, advice);
}

/* ---- work that every loop has: filling, and adding up -------------------- */

static void plan_fill(const loop *l, uint64_t step, size_t i, visit *out)
{
    (void)l, (void)step;
    *out = (visit){.n = 1, .tensor = {(uint32_t)i}, .mode = {'o'}};
}

static void compute_fill(loop *l, uint64_t step, size_t i, void *const *address)
{
    (void)step;
    l->fill(l, i, address[0]);
}

static void plan_sum(const loop *l, uint64_t step, size_t i, visit *out)
{
    plan_fill(l, step, i, out);
    out->mode[0] = 'r';
}

static void compute_sum(loop *l, uint64_t step, size_t i, void *const *address)
{
    const uint64_t *p = address[0];
    uint64_t sum[4] = {i};
    (void)step;
    for (size_t k = 0; k < l->bytes[i] / sizeof *p; k += 4)
        for (size_t lane = 0; lane < 4; lane++)
            sum[lane] = (sum[lane] ^ p[k + lane]) * 0x100000001b3u;
    l->sums[i] = loop_mix(sum[0] ^ loop_mix(sum[1] ^ loop_mix(sum[2] ^ loop_mix(sum[3]))));
}

/* The file that the tensors come from, unless it is there. */
static void write_file(const loop *l)
{
    struct stat s;
    if (stat(l->file, &s) == 0 && (size_t)s.st_size == loop_bytes(l))
        return;
    int fd = open(l->file, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    for (size_t i = 0; i < l->tensors; i++) {
        char *p = loop_map(l->bytes[i]);
        l->fill(l, i, p);
        for (size_t at = 0; at < l->bytes[i];) {
            ssize_t n = write(fd, p + at, l->bytes[i] - at);
            if (n <= 0)
                loop_fail("%s cannot be written: %s", l->file, strerror(errno));
            at += (size_t)n;
        }
        munmap(p, l->bytes[i]);
    }
    if (fsync(fd) || posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED) || close(fd))
        loop_fail("%s cannot be written: %s", l->file, strerror(errno));
}

/* ---- measuring ------------------------------------------------------------ */

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

typedef struct record {
    double seconds;
    traffic moved;
} record;

static traffic moved(const engine *e, void *state)
{
    return e->moved ? e->moved(state) : (traffic){0, 0};
}

/* Steps until there are enough, or time is over; how many there were. */
static unsigned measure(const engine *e, void *state, loop *l, record *r)
{
    const loop_options *o = l->options;
    unsigned all = o->warm + o->steps, n = 0;
    double begin = now();
    for (bool more = true; more; n++) {
        double start = now();
        traffic before = moved(e, state);
        more = n + 1 < all && (n < o->warm || start - begin < o->seconds);
        e->run(state, l, &l->step, n, more);
        traffic after = moved(e, state);
        r[n] = (record){now() - start, {after.read - before.read, after.written - before.written}};
    }
    return n;
}

static void print_results(const loop *l, const engine *e, const record *r, unsigned n, double filled)
{
    struct rusage usage;
    uint64_t sum = 0;
    getrusage(RUSAGE_SELF, &usage);
    for (size_t i = 0; !l->result && i < l->tensors; i++)
        sum += loop_mix(l->sums[i] + i);
    if (l->result)
        sum = l->result(l);
    printf("{\"engine\": \"%s\", \"advice\": \"%s\", \"ahead\": %zu, \"bytes\": %zu, \"warm\": %u, "
           "\"fill_seconds\": %.3f, \"peak_rss_bytes\": %ld, \"sum\": \"%016" PRIx64 "\", \"seconds\": [",
           e->name, l->options->advice ? l->options->advice : "", l->options->ahead, loop_bytes(l),
           l->options->warm, filled, usage.ru_maxrss * 1024, sum);
    for (unsigned i = 0; i < n; i++)
        printf("%s%.4f", i ? ", " : "", r[i].seconds);
    for (int k = 0; e->moved && k < 2; k++) {
        printf(k ? "], \"written_bytes\": [" : "], \"read_bytes\": [");
        for (unsigned i = 0; i < n; i++)
            printf("%s%" PRIu64, i ? ", " : "", k ? r[i].moved.written : r[i].moved.read);
    }
    puts("]}");
}

/* The accesses, as bound.py reads them. */
static void print_trace(const loop *l)
{
    for (size_t i = 0; i < l->tensors; i++)
        printf("new %zu %zu\n", i, l->bytes[i]);
    for (unsigned step = 0; step < l->options->warm + l->options->steps; step++) {
        for (size_t i = 0; i < l->step.visits; i++) {
            visit v;
            l->step.plan(l, step, i, &v);
            for (unsigned k = 0; k < v.n; k++)
                printf("use %u %c\n", v.tensor[k], v.mode[k]);
        }
        puts("step");
    }
}

/* ---- arguments ------------------------------------------------------------ */

static const engine *engine_find(const char *name)
{
    for (size_t i = 0; i < ENGINES; i++)
        if (strcmp(engines[i]->name, name) == 0)
            return engines[i];
    if (strcmp(name, "starpu") != 0)
        loop_fail("--engine is '%s'; it can be terrace, ram, swap, mmap, pipeline or starpu", name);
    char path[4096];
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 16);
    char *slash = n > 0 ? (path[n] = '\0', strrchr(path, '/')) : NULL;
    if (!slash)
        loop_fail("/proc is not there");
    memcpy(slash + 1, "starpu.so", sizeof "starpu.so");
    void *module = dlopen(path, RTLD_NOW);
    const engine *e = module ? dlsym(module, "engine_starpu") : NULL;
    if (!e)
        loop_fail("StarPU is not there: %s", dlerror());
    return e;
}

static size_t number(const char *name, const char *text)
{
    char *end;
    errno = 0;
    unsigned long long n = strtoull(text, &end, 10);
    if (errno || end == text || *end || n > SIZE_MAX / LOOP_MIB)
        loop_fail("%s is '%s'; it must be a whole number", name, text);
    return (size_t)n;
}

static void parse(int argc, char **argv, loop_options *o)
{
    for (int i = 1; i < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];
        if (strcmp(name, "--trace") == 0) {
            o->trace = true;
            i--;
            continue;
        }
        struct { const char *name; const char **text; size_t *mib, *count; unsigned *small; } all[] = {
            {"--engine", &o->engine, NULL, NULL, NULL}, {"--advice", &o->advice, NULL, NULL, NULL},
            {"--folder", &o->folder, NULL, NULL, NULL}, {"--kind", &o->kind, NULL, NULL, NULL},
            {"--policy", &o->policy, NULL, NULL, NULL}, {"--size", NULL, &o->size, NULL, NULL},
            {"--piece", NULL, &o->piece, NULL, NULL},   {"--limit", NULL, &o->limit, NULL, NULL},
            {"--ahead", NULL, NULL, &o->ahead, NULL},   {"--warm", NULL, NULL, NULL, &o->warm},
            {"--steps", NULL, NULL, NULL, &o->steps},
        };
        size_t k = 0, n = sizeof all / sizeof *all;
        while (k < n && strcmp(all[k].name, name) != 0)
            k++;
        if (!value || (k == n && strcmp(name, "--seconds") != 0))
            loop_fail("%s is not an option, or has no value; the options are --engine --advice --policy "
                      "--kind --folder --size --piece --limit (MiB) --ahead --warm --steps --seconds "
                      "and --trace", name);
        if (k == n)
            o->seconds = (double)number(name, value);
        else if (all[k].text)
            *all[k].text = value;
        else if (all[k].mib)
            *all[k].mib = number(name, value) * LOOP_MIB;
        else if (all[k].count)
            *all[k].count = number(name, value);
        else
            *all[k].small = (unsigned)number(name, value);
    }
    if (!o->piece || o->size < o->piece || o->warm + o->steps == 0 || o->warm + o->steps > 100000)
        loop_fail("--size must be at least --piece, and --warm and --steps together at least 1");
}

static void run(loop *l, const engine *e)
{
    const loop_options *o = l->options;
    if (e->known && !l->step.known)
        loop_fail("%s needs to know the order of visits beforehand", e->name);
    if (e->limited && (!o->limit || o->limit < 2 * o->piece))
        loop_fail("%s needs --limit, of at least two pieces", e->name);
    if (l->file && !e->fills)
        write_file(l);
    l->sums = loop_need(calloc(l->tensors, sizeof *l->sums));
    record *r = loop_need(calloc(o->warm + o->steps, sizeof *r));
    work fill = {l->tensors, true, false, plan_fill, compute_fill};
    work sum = {l->tensors, true, false, plan_sum, compute_sum};
    void *state = e->open(l);
    double start = now();
    if (!l->file || e->fills)
        e->run(state, l, &fill, 0, false);
    double filled = now() - start;
    unsigned n = measure(e, state, l, r);
    if (!l->result)
        e->run(state, l, &sum, 0, false);
    print_results(l, e, r, n, filled);
    e->close(state);
    free(r);
    free(l->sums);
}

int loop_main(int argc, char **argv, loop_options o, void (*prepare)(loop *l))
{
    loop l = {.options = &o};
    parse(argc, argv, &o);
    prepare(&l);
    if (o.trace) {
        print_trace(&l);
    } else {
        const engine *e = engine_find(o.engine ? o.engine : "terrace");
        if (!o.advice)
            o.advice = e->advice;
        run(&l, e);
    }
    free(l.bytes);
    return 0;
}
