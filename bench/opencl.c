/* opencl.c - tensors to an OpenCL device and back, next to OpenCL's own copies.
 *
 * usage: opencl [--json] [--quick]
 *
 * For each size, rounds that alternate between two: an acquire that brings a tensor
 * from the host to the device, or from there to the host; and one blocking
 * clEnqueueWriteBuffer or clEnqueueReadBuffer of as many bytes, between a buffer and
 * memory of the host in the same context. The memory of both is in use before, and
 * has large pages. Prints the medians, as a table or as JSON. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "terrace.h"

#ifndef WITH_OPENCL

int main(void)
{
    puts("opencl: not measured: built where OpenCL has no headers (Debian's opencl-c-headers, ocl-icd-opencl-dev)");
    return 0;
}

#else

#include <CL/cl.h>

enum { MIB = 1 << 20, SIZES = 5, ROUNDS = 31 };
static const size_t size_of[SIZES] = {1 * MIB, 4 * MIB, 16 * MIB, 64 * MIB, 256 * MIB};

static struct job {
    terrace *m;
    terrace_tier device, host;
    cl_context context;
    cl_command_queue queue;
    int rounds;
} j;

struct rates {
    double terrace, plain; /* bytes per second */
};

static void must(int r)
{
    if (r == 0)
        return;
    fprintf(stderr, "opencl: %s\n", terrace_last_error());
    exit(1);
}

static void must_cl(cl_int r)
{
    if (r == CL_SUCCESS)
        return;
    fprintf(stderr, "opencl: OpenCL error %d\n", r);
    exit(1);
}

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int compare(const void *a, const void *b)
{
    const double *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static double median(double *times)
{
    qsort(times, (size_t)j.rounds, sizeof *times, compare);
    return times[j.rounds / 2];
}

/* ---- one copy ------------------------------------------------------------ */

/* The tensor's bytes are made to be elsewhere, then wanted on the tier. */
static double bring(terrace_tensor *t, terrace_tier from, terrace_tier to)
{
    void *p;
    must(terrace_acquire(t, from, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL));
    must(terrace_release(t, p, TERRACE_HOST_SYNC));
    double start = now();
    must(terrace_acquire(t, to, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    double took = now() - start;
    must(terrace_release(t, p, TERRACE_HOST_SYNC));
    return took;
}

static double plain(cl_mem buffer, void *memory, size_t bytes, int into)
{
    double start = now();
    if (into)
        must_cl(clEnqueueWriteBuffer(j.queue, buffer, CL_TRUE, 0, bytes, memory, 0, NULL, NULL));
    else
        must_cl(clEnqueueReadBuffer(j.queue, buffer, CL_TRUE, 0, bytes, memory, 0, NULL, NULL));
    return now() - start;
}

/* ---- a size -------------------------------------------------------------- */

static void *large_pages(size_t bytes)
{
    void *p = mmap(NULL, bytes + 2 * MIB, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        exit(1);
    p = (void *)(((size_t)p + 2 * MIB - 1) & ~(size_t)(2 * MIB - 1));
    madvise(p, bytes, MADV_HUGEPAGE);
    memset(p, 1, bytes);
    return p;
}

static void tensor_use(terrace_tensor *t, size_t bytes)
{
    void *p;
    must(terrace_acquire(t, j.host, TERRACE_OVERWRITE, NULL, &p, NULL));
    memset(p, 1, bytes);
    must(terrace_release(t, p, NULL));
    bring(t, j.host, j.device);
    bring(t, j.device, j.host);
}

static void measure(size_t bytes, struct rates out[2])
{
    double ours[2][ROUNDS], theirs[2][ROUNDS];
    terrace_tensor *t;
    cl_int r;
    void *memory = large_pages(bytes);
    cl_mem buffer = clCreateBuffer(j.context, CL_MEM_READ_WRITE, bytes, NULL, &r);
    must_cl(r);
    must(terrace_tensor_create(j.m, bytes, NULL, &t));
    tensor_use(t, bytes);
    plain(buffer, memory, bytes, 1);
    for (int i = 0; i < j.rounds; i++)
        for (int into = 0; into < 2; into++) {
            ours[into][i] = into ? bring(t, j.host, j.device) : bring(t, j.device, j.host);
            theirs[into][i] = plain(buffer, memory, bytes, into);
        }
    for (int into = 0; into < 2; into++)
        out[into] = (struct rates){(double)bytes / median(ours[into]), (double)bytes / median(theirs[into])};
    terrace_tensor_destroy(t);
    clReleaseMemObject(buffer);
}

/* ---- all ----------------------------------------------------------------- */

static void context_find(void)
{
    terrace_tensor *t;
    cl_device_id id;
    cl_int r;
    void *p;
    must(terrace_tensor_create(j.m, 4096, NULL, &t));
    must(terrace_acquire(t, j.device, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL));
    must_cl(clGetMemObjectInfo(p, CL_MEM_CONTEXT, sizeof(cl_context), &j.context, NULL));
    must_cl(clGetContextInfo(j.context, CL_CONTEXT_DEVICES, sizeof(cl_device_id), &id, NULL));
    must(terrace_release(t, p, TERRACE_HOST_SYNC));
    j.queue = clCreateCommandQueue(j.context, id, 0, &r);
    must_cl(r);
}

static void show(struct rates rates[SIZES][2], int sizes, const char *device)
{
    printf("%s; medians of %d\n%10s %26s %26s\n", device, j.rounds, "", "to the device, GB/s", "from the device, GB/s");
    printf("%10s %9s %8s %7s %9s %8s %7s\n", "bytes", "terrace", "plain", "ratio", "terrace", "plain", "ratio");
    for (int i = 0; i < sizes; i++) {
        const struct rates *into = &rates[i][1], *from = &rates[i][0];
        printf("%6zu MiB %9.2f %8.2f %7.2f %9.2f %8.2f %7.2f\n", size_of[i] / MIB, into->terrace / 1e9, into->plain / 1e9,
               into->terrace / into->plain, from->terrace / 1e9, from->plain / 1e9, from->terrace / from->plain);
    }
}

static void show_json(struct rates rates[SIZES][2], int sizes, const char *device)
{
    printf("{\"bench\": \"opencl\", \"device\": \"%s\", \"rounds\": %d, \"sizes\": [", device, j.rounds);
    for (int i = 0; i < sizes; i++)
        for (int into = 1; into >= 0; into--)
            printf("%s\n{\"bytes\": %zu, \"to\": \"%s\", \"terrace_GBps\": %.3f, \"plain_GBps\": %.3f, \"ratio\": %.3f}",
                   i || !into ? "," : "", size_of[i], into ? "device" : "host", rates[i][into].terrace / 1e9,
                   rates[i][into].plain / 1e9, rates[i][into].terrace / rates[i][into].plain);
    puts("]}");
}

int main(int argc, char **argv)
{
    struct rates rates[SIZES][2];
    int json = 0, quick = 0;
    for (int i = 1; i < argc; i++) {
        json |= !strcmp(argv[i], "--json");
        quick |= !strcmp(argv[i], "--quick");
    }
    if (argc != 1 + json + quick) {
        fprintf(stderr, "usage: opencl [--json] [--quick]\n");
        return 2;
    }
    j.rounds = quick ? 7 : ROUNDS;
    int sizes = quick ? SIZES - 1 : SIZES;
    if (terrace_open(&j.m, "tiers=opencl:0,numa:0; limit_opencl=600M; limit_host=1G")) {
        printf("opencl: not measured: %s\n", terrace_last_error());
        return 0;
    }
    must(terrace_tier_find(j.m, "opencl", &j.device));
    must(terrace_tier_find(j.m, "host", &j.host));
    context_find();
    for (int i = 0; i < sizes; i++)
        measure(size_of[i], rates[i]);
    terrace_tier_statistics s = {.size = sizeof s};
    must(terrace_tier_stats(j.m, 0, &s));
    (json ? show_json : show)(rates, sizes, s.location);
    clReleaseCommandQueue(j.queue);
    terrace_close(j.m);
    return 0;
}

#endif
