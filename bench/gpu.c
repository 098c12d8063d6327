/* gpu.c - what an NVIDIA device's bus, memory and virtual memory give, and terrace.
 *
 * usage: gpu [--quick] [--runs N] [--folder FOLDER] [--json FILE]
 *        gpu --device: only says which device it is
 *
 * Bytes go to the device and back by terrace, as tensors that are acquired there and
 * then on the host, and by the driver's own copies of the same sizes from registered
 * (page-locked) memory, in turns; all rates are medians. Tensors go to the disk and
 * back, too; and granules of memory are mapped and unmapped. Exit status 3: there is
 * no device. With the simulated driver of the tests it says so: nothing of that is a
 * measurement. Calls the driver through offload/cuda_driver.c. */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "../offload/cuda_driver.h"
#include "terrace.h"

enum { NO_DEVICE = 3, MOST_RUNS = 101, MOST_TENSORS = 8192 };
static const size_t KIB = 1024, MIB = 1 << 20;

static struct {
    bool only_device, quick, simulated;
    unsigned runs;
    const char *folder, *json_path;
    FILE *json;
    const char *comma; /* before the next of a list */
    size_t total; /* bytes moved at a time */
    char *pinned, *pageable;
    cuda_address device; /* 2 * total */
    cuda_stream stream[2];
    void *library; /* the driver's */
    cuda_result (*copy_inside)(cuda_address to, cuda_address from, size_t bytes, cuda_stream stream);
    terrace *m;
    terrace_tier dev, host, disk, disk_tier; /* disk: the class */
} b;

/* ---- helpers ----------------------------------------------------------- */

__attribute__((format(printf, 2, 3), noreturn)) static void die(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs("gpu: ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(status);
}

static void check(int rc, const char *what)
{
    if (rc)
        die(1, "%s: %s", what, terrace_last_error());
}

static void must(cuda_result r, const char *what)
{
    char text[160];
    if (r == CUDA_OK)
        return;
    cuda_text(r, text, sizeof text);
    die(1, "%s: %s", what, text);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int by_size(const void *a, const void *c)
{
    double x = *(const double *)a, y = *(const double *)c;
    return (x > y) - (x < y);
}

static double median(double *values, unsigned n)
{
    qsort(values, n, sizeof *values, by_size);
    return n % 2 ? values[n / 2] : (values[n / 2 - 1] + values[n / 2]) / 2;
}

__attribute__((format(printf, 1, 2))) static void json(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    if (b.json)
        vfprintf(b.json, format, args);
    va_end(args);
}

static void json_list(const char *name)
{
    json(" \"%s\": [", name);
    b.comma = "\n  ";
}

static const char *json_next(void)
{
    const char *comma = b.comma;
    b.comma = ",\n  ";
    return comma;
}

static char *memory(size_t bytes)
{
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        die(1, "no host memory for %zu bytes", bytes);
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    return p;
}

/* ---- the driver's own copies ------------------------------------------- */

enum way { IN, OUT, BOTH, INSIDE, PAGEABLE_IN, PAGEABLE_OUT, WAYS };
static const char *const way_name[WAYS] = {"to the device", "back", "both at once", "inside the device",
                                           "to the device, pageable", "back, pageable"};

static void raw_start(enum way way, size_t at, size_t size, size_t i)
{
    bool out = way == OUT || way == PAGEABLE_OUT || (way == BOTH && i % 2);
    char *host = (way == PAGEABLE_IN || way == PAGEABLE_OUT ? b.pageable : b.pinned) + at;
    cuda_stream stream = b.stream[way == BOTH && out];
    must(way == INSIDE ? b.copy_inside(b.device + b.total + at, b.device + at, size, stream)
         : out         ? cuda.copy_out(host, b.device + at, size, stream)
                       : cuda.copy_in(b.device + at, host, size, stream),
         "copying");
}

/* Seconds for `count` copies of `size`, all of which are under way at once. */
static double raw_time(enum way way, size_t size, size_t count)
{
    double start = now();
    for (size_t i = 0; i < count; i++)
        raw_start(way, i * size, size, i);
    must(cuda.stream_synchronize(b.stream[0]), "copying");
    must(cuda.stream_synchronize(b.stream[1]), "copying");
    return now() - start;
}

/* ---- terrace's --------------------------------------------------------- */

struct pass {
    terrace_tensor **tensor;
    size_t count;
    terrace_tier tier;
};

/* Brings tensors to a tier and changes them there, so that no other copy is of use. */
static void *pass_run(void *arg)
{
    const struct pass *p = arg;
    void *at;
    for (size_t i = 0; i < p->count && p->count > 1; i++)
        check(terrace_prefetch(p->tensor[i], p->tier), "prefetch");
    for (size_t i = 0; i < p->count; i++) {
        check(terrace_acquire(p->tensor[i], p->tier, TERRACE_WRITE, TERRACE_HOST_SYNC, &at, NULL), "acquire");
        check(terrace_release(p->tensor[i], at, TERRACE_HOST_SYNC), "release");
    }
    return NULL;
}

static double pass_time(terrace_tensor **tensor, size_t count, terrace_tier tier)
{
    struct pass p = {tensor, count, tier};
    double start = now();
    pass_run(&p);
    return now() - start;
}

/* The first half to the device while the second comes back. */
static double passes_time(terrace_tensor **tensor, size_t count, bool swapped)
{
    struct pass p[2] = {{tensor, count / 2, swapped ? b.host : b.dev},
                        {tensor + count / 2, count - count / 2, swapped ? b.dev : b.host}};
    pthread_t thread;
    double start = now();
    if (pthread_create(&thread, NULL, pass_run, &p[1]))
        die(1, "a thread cannot be created");
    pass_run(&p[0]);
    pthread_join(thread, NULL);
    return now() - start;
}

static void tensors_create(terrace_tensor **tensor, size_t count, size_t size)
{
    void *at;
    for (size_t i = 0; i < count; i++) {
        check(terrace_tensor_create(b.m, size, NULL, &tensor[i]), "a tensor");
        check(terrace_acquire(tensor[i], b.host, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &at, NULL), "acquire");
        memset(at, (int)i, size);
        check(terrace_release(tensor[i], at, TERRACE_HOST_SYNC), "release");
    }
}

static void tensors_destroy(terrace_tensor **tensor, size_t count)
{
    for (size_t i = 0; i < count; i++)
        terrace_tensor_destroy(tensor[i]);
}

/* ---- copies compared --------------------------------------------------- */

static void row(enum way way, size_t size, size_t count, double terrace_s, double raw_s)
{
    double bytes = (double)size * (double)count;
    printf("%-24s %8zu KiB x %-5zu", way_name[way], size / KIB, count);
    if (terrace_s > 0)
        printf("  terrace %7.2f GB/s", bytes / terrace_s * 1e-9);
    else
        printf("  %20s", "");
    printf("  driver %7.2f GB/s", bytes / raw_s * 1e-9);
    printf(terrace_s > 0 ? "  ratio %.2f\n" : "\n", raw_s / terrace_s);
    json("%s{\"way\": \"%s\", \"bytes\": %zu, \"count\": %zu, \"driver_GBps\": %.4f", json_next(), way_name[way],
         size, count, bytes / raw_s * 1e-9);
    if (terrace_s > 0)
        json(", \"terrace_GBps\": %.4f, \"ratio\": %.4f", bytes / terrace_s * 1e-9, raw_s / terrace_s);
    json("}");
    fflush(stdout);
}

static void copies(size_t size, size_t count)
{
    static terrace_tensor *tensor[MOST_TENSORS];
    static double t[3][MOST_RUNS], raw[WAYS][MOST_RUNS];
    bool halves = count > 1;
    tensors_create(tensor, count, size);
    for (unsigned i = 0; i <= b.runs; i++) { /* the first run does not count */
        unsigned at = i ? i - 1 : 0;
        t[IN][at] = pass_time(tensor, count, b.dev);
        raw[IN][at] = raw_time(IN, size, count);
        t[OUT][at] = pass_time(tensor, count, b.host);
        raw[OUT][at] = raw_time(OUT, size, count);
        raw[BOTH][at] = raw_time(BOTH, size, count);
        for (enum way way = INSIDE; way < WAYS; way++)
            raw[way][at] = raw_time(way, size, count);
        if (!halves)
            continue;
        pass_time(tensor + count / 2, count - count / 2, b.dev);
        t[BOTH][at] = passes_time(tensor, count, false);
        passes_time(tensor, count, true);
        pass_time(tensor + count / 2, count - count / 2, b.host);
    }
    for (enum way way = IN; way < WAYS; way++)
        if (way != BOTH || halves)
            row(way, size, count, way <= BOTH ? median(t[way], b.runs) : 0, median(raw[way], b.runs));
    tensors_destroy(tensor, count);
}

/* One copy and word of it, at a time. */
static void latency(size_t size)
{
    enum { REPEATS = 200 };
    static double t[2][REPEATS], raw[2][REPEATS];
    terrace_tensor *tensor;
    tensors_create(&tensor, 1, size);
    for (int i = 0; i < REPEATS; i++) {
        t[IN][i] = pass_time(&tensor, 1, b.dev);
        raw[IN][i] = raw_time(IN, size, 1);
        t[OUT][i] = pass_time(&tensor, 1, b.host);
        raw[OUT][i] = raw_time(OUT, size, 1);
    }
    terrace_tensor_destroy(tensor);
    for (int way = IN; way <= OUT; way++) {
        double ours = median(t[way], REPEATS) * 1e6, driver = median(raw[way], REPEATS) * 1e6;
        printf("%-24s %8zu KiB, one at a time: terrace %.1f us, driver %.1f us\n", way_name[way], size / KIB, ours,
               driver);
        json("%s{\"way\": \"%s\", \"bytes\": %zu, \"terrace_us\": %.2f, \"driver_us\": %.2f}", json_next(),
             way_name[way], size, ours, driver);
    }
}

static void all_copies(void)
{
    json_list("copies");
    for (size_t size = b.quick ? MIB : 64 * KIB; size < b.total; size *= 16)
        copies(size, size < MIB ? 64 * MIB / size : b.total / size);
    copies(b.total / 4, 4);
    copies(b.total, 1);
    json("],\n");
    json_list("latencies");
    latency(64 * KIB);
    latency(MIB);
    json("],\n");
}

/* ---- to the disk and back ---------------------------------------------- */

static void disk(void)
{
    enum { SIZE = 16 << 20, MOST = 1024 };
    static terrace_tensor *tensor[MOST];
    static double down[MOST_RUNS], up[MOST_RUNS];
    terrace_tier_statistics before = {.size = sizeof before}, after = {.size = sizeof after};
    size_t count = (b.quick ? 64 * MIB : 4096 * MIB) / SIZE;
    unsigned runs = b.runs < 3 ? b.runs : 3;
    tensors_create(tensor, count, SIZE);
    for (unsigned i = 0; i < runs; i++) {
        pass_time(tensor, count, b.dev);
        double start = now();
        for (size_t j = 0; j < count; j++)
            check(terrace_demote(tensor[j], b.disk), "demote");
        for (size_t j = 0; j < count; j++)
            check(terrace_wait(tensor[j]), "writing to the disk");
        down[i] = now() - start;
        check(terrace_tier_stats(b.m, b.disk_tier, &before), "statistics");
        up[i] = pass_time(tensor, count, b.dev);
        check(terrace_tier_stats(b.m, b.disk_tier, &after), "statistics");
        if (after.out_bytes - before.out_bytes < count * SIZE)
            die(1, "only %llu of %zu bytes came from the disk", (unsigned long long)(after.out_bytes - before.out_bytes),
                count * SIZE);
    }
    tensors_destroy(tensor, count);
    double bytes = (double)SIZE * (double)count * 1e-9;
    printf("device to disk %.2f GB/s, disk to device %.2f GB/s (%zu MiB, pieces of %d MiB)\n",
           bytes / median(down, runs), bytes / median(up, runs), count * SIZE / MIB, SIZE >> 20);
    json(" \"disk\": {\"bytes\": %zu, \"device_to_disk_GBps\": %.4f, \"disk_to_device_GBps\": %.4f},\n", count * SIZE,
         bytes / median(down, runs), bytes / median(up, runs));
}

/* ---- mapping ----------------------------------------------------------- */

enum { CREATE, MAP, ACCESS, UNMAP, RELEASE, STEPS };
static const char *const step_name[STEPS] = {"create", "map", "set access", "unmap", "release"};

/* Microseconds a granule for each step. */
static void remap_run(size_t granule, size_t n, const cuda_property *p, double *us)
{
    static cuda_memory memory_of[4096];
    const cuda_access access = {{CUDA_ON_DEVICE, 0}, CUDA_READ_WRITE};
    cuda_address base;
    double at[STEPS + 1];
    must(cuda.reserve(&base, n * granule, granule, 0, 0), "reserving");
    at[0] = now();
    for (size_t i = 0; i < n; i++)
        must(cuda.create(&memory_of[i], granule, p, 0), "creating memory");
    at[1] = now();
    for (size_t i = 0; i < n; i++)
        must(cuda.map(base + i * granule, granule, 0, memory_of[i], 0), "mapping");
    at[2] = now();
    for (size_t i = 0; i < n; i++)
        must(cuda.set_access(base + i * granule, granule, &access, 1), "setting access");
    at[3] = now();
    for (size_t i = 0; i < n; i++)
        must(cuda.unmap(base + i * granule, granule), "unmapping");
    at[4] = now();
    for (size_t i = 0; i < n; i++)
        must(cuda.release(memory_of[i]), "releasing memory");
    at[5] = now();
    must(cuda.unreserve(base, n * granule), "unreserving");
    for (int i = 0; i < STEPS; i++)
        us[i] = (at[i + 1] - at[i]) / (double)n * 1e6;
}

static void remap(void)
{
    cuda_property p = {.type = CUDA_PINNED, .location = {CUDA_ON_DEVICE, 0}};
    static double us[STEPS][MOST_RUNS];
    size_t granule = 0, n;
    if (cuda_lacks_virtual_memory() || cuda.granularity(&granule, &p, CUDA_LEAST_GRANULARITY)) {
        printf("mapping: not run: the driver has no virtual memory management\n");
        return;
    }
    n = b.quick ? 16 : 256;
    for (unsigned i = 0; i < b.runs; i++) {
        double found[STEPS];
        remap_run(granule, n, &p, found);
        for (int s = 0; s < STEPS; s++)
            us[s][i] = found[s];
    }
    printf("a granule of %zu KiB:", granule / KIB);
    json(" \"remap\": {\"granule\": %zu", granule);
    for (int s = 0; s < STEPS; s++) {
        double m = median(us[s], b.runs);
        printf("%s %s %.2f us", s ? "," : "", step_name[s], m);
        json(", \"%s_us\": %.3f", step_name[s], m);
    }
    putchar('\n');
    json("},\n");
}

/* ---- main -------------------------------------------------------------- */

static void open_driver(void)
{
    char why[300];
    cuda_context context;
    if (cuda_load(why, sizeof why) == 0)
        die(NO_DEVICE, "%s", why);
    b.library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    *(void **)&b.copy_inside = b.library ? dlsym(b.library, "cuMemcpyDtoDAsync_v2") : NULL;
    b.simulated = b.library && dlsym(b.library, "sim_count");
    if (!b.copy_inside)
        die(1, "the driver has no cuMemcpyDtoDAsync_v2");
    must(cuda.context_retain(&context, 0), "the device's context");
    must(cuda.context_set(context), "the device's context");
    if (b.only_device)
        return;
    b.total = b.quick ? 16 * MIB : 1024 * MIB;
    b.pinned = memory(b.total);
    b.pageable = memory(b.total);
    must(cuda.host_register(b.pinned, b.total, 0), "registering memory");
    must(cuda.memory_alloc(&b.device, 2 * b.total), "device memory");
    for (int i = 0; i < 2; i++)
        must(cuda.stream_create(&b.stream[i], CUDA_STREAM_NON_BLOCKING), "a stream");
}

static void close_driver(void)
{
    for (int i = 0; i < 2 && b.total; i++)
        must(cuda.stream_destroy(b.stream[i]), "a stream's end");
    if (b.total) {
        must(cuda.memory_free(b.device), "device memory");
        must(cuda.host_unregister(b.pinned), "unregistering memory");
    }
    must(cuda.context_set(NULL), "the device's context");
    must(cuda.context_release(0), "the device's context");
    dlclose(b.library);
}

static void open_terrace(void)
{
    char conf[600];
    int n = snprintf(conf, sizeof conf, "limit_host=%zuM;%s%s", b.quick ? (size_t)96 : (size_t)6144,
                     b.folder ? "nvme_path=" : "", b.folder ? b.folder : "");
    if (n < 0 || (size_t)n >= sizeof conf)
        die(2, "--folder %s is too long", b.folder);
    check(terrace_open(&b.m, conf), "terrace");
    check(terrace_tier_find(b.m, "cuda:0", &b.dev), "the device");
    check(terrace_tier_find(b.m, "host", &b.host), "host memory");
    check(terrace_tier_find(b.m, "disk", &b.disk), "the disk");
    check(terrace_tier_find(b.m, "nvme:0", &b.disk_tier), "the disk");
}

static void greet(void)
{
    terrace_tier_statistics s = {.size = sizeof s};
    check(terrace_tier_stats(b.m, b.dev, &s), "statistics");
    printf("%s%s\n", s.location, b.simulated ? ": SIMULATED, none of these figures is a measurement" : "");
    json("{\"device\": \"%s\", \"simulated\": %s, \"limit\": %llu, \"runs\": %u,\n", s.location,
         b.simulated ? "true" : "false", (unsigned long long)s.limit, b.runs);
}

static void arguments(int argc, char **argv)
{
    b.runs = 7;
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : NULL;
        if (strcmp(argv[i], "--quick") == 0) {
            b.quick = true;
            b.runs = 3;
        } else if (strcmp(argv[i], "--device") == 0) {
            b.only_device = true;
        } else if (strcmp(argv[i], "--runs") == 0 && value) {
            b.runs = (unsigned)strtoul(argv[++i], NULL, 10);
        } else if (strcmp(argv[i], "--folder") == 0 && value) {
            b.folder = argv[++i];
        } else if (strcmp(argv[i], "--json") == 0 && value) {
            b.json_path = argv[++i];
        } else {
            die(2, "usage: gpu [--device] [--quick] [--runs N] [--folder FOLDER] [--json FILE]");
        }
    }
    if (b.runs < 1 || b.runs > MOST_RUNS)
        die(2, "--runs must be from 1 to %d", MOST_RUNS);
}

int main(int argc, char **argv)
{
    arguments(argc, argv);
    open_driver();
    if (b.json_path && !(b.json = fopen(b.json_path, "w")))
        die(2, "--json: %s cannot be written", b.json_path);
    open_terrace();
    greet();
    if (!b.only_device) {
        all_copies();
        disk();
        remap();
    }
    terrace_close(b.m);
    close_driver();
    json(" \"end\": true}\n");
    if (b.json && (ferror(b.json) | fclose(b.json)))
        die(1, "--json: %s cannot be written", b.json_path);
    return 0;
}
