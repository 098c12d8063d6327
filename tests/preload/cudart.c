/* cudart.c - a program that uses the CUDA runtime: cudart WHAT. LOADED: it loads the
 * library; else it is linked with it. */
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MIB = 1 << 20, BLOCKS = 16, BLOCK = 4 * MIB };

/* The runtime's functions, which a program that loads it looks for. */
#define FUNCTIONS(X)                                                                                          \
    X(cudaMalloc) X(cudaFree) X(cudaMemcpy) X(cudaMemcpyAsync) X(cudaMallocAsync) X(cudaFreeAsync)            \
    X(cudaMallocPitch) X(cudaStreamCreate) X(cudaStreamSynchronize) X(cudaDeviceSynchronize) X(cudaMemGetInfo) \
    X(cudaGetDriverEntryPointByVersion) X(cudaGetErrorString)
static struct {
#define MEMBER(name) __typeof__(name) *name;
    FUNCTIONS(MEMBER)
} rt;

#define expect(...)                                                             \
    do {                                                                        \
        if (!(__VA_ARGS__)) {                                                   \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #__VA_ARGS__); \
            exit(1);                                                            \
        }                                                                       \
    } while (0)
#define ok(call)                                                                                           \
    do {                                                                                                   \
        cudaError_t r_ = (call);                                                                           \
        if (r_) {                                                                                          \
            fprintf(stderr, "%s:%d: %s gives %d (%s)\n", __FILE__, __LINE__, #call, r_, rt.cudaGetErrorString(r_)); \
            exit(1);                                                                                       \
        }                                                                                                  \
    } while (0)

static void reach(void)
{
#ifdef LOADED
    void *library = dlopen(LOADED, RTLD_NOW | RTLD_LOCAL);
    expect(library);
#define FIND(name) *(void **)&rt.name = dlsym(library, #name); expect(rt.name);
#else
#define FIND(name) rt.name = name;
#endif
    FUNCTIONS(FIND)
}

static void fill(unsigned char *to, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        to[i] = (unsigned char)(seed * 31 + i * 7 + (i >> 12));
}

static bool holds(const unsigned char *at, size_t bytes, unsigned seed)
{
    for (size_t i = 0; i < bytes; i++)
        if (at[i] != (unsigned char)(seed * 31 + i * 7 + (i >> 12)))
            return false;
    return true;
}

static unsigned calls(const char *entry)
{
    unsigned (*of)(const char *);
    *(void **)&of = dlsym(dlopen("libcuda.so.1", RTLD_NOW), "sim_calls");
    return of(entry);
}

/* Twice the budget; `ordered`: in a stream. */
static void memory(bool ordered)
{
    unsigned char *at[BLOCKS], *host = malloc(BLOCK);
    cudaStream_t stream;
    ok(rt.cudaStreamCreate(&stream));
    for (unsigned i = 0; i < BLOCKS; i++) {
        if (ordered)
            ok(rt.cudaMallocAsync((void **)&at[i], BLOCK, stream));
        else
            ok(rt.cudaMalloc((void **)&at[i], BLOCK));
        fill(host, BLOCK, i);
        ok(rt.cudaMemcpyAsync(at[i], host, BLOCK, cudaMemcpyHostToDevice, stream));
        ok(rt.cudaStreamSynchronize(stream));
    }
    ok(rt.cudaDeviceSynchronize());
    for (unsigned i = 0; i < BLOCKS; i++) {
        ok(rt.cudaMemcpy(host, at[i], BLOCK, cudaMemcpyDeviceToHost));
        expect(holds(host, BLOCK, i));
    }
    expect(calls("cuMemAlloc_v2") == 0 && calls("cuMemAllocAsync") == 0);
    for (unsigned i = 0; i < BLOCKS; i++)
        if (ordered)
            ok(rt.cudaFreeAsync(at[i], stream));
        else
            ok(rt.cudaFree(at[i]));
    ok(rt.cudaDeviceSynchronize());
}

/* What the runtime gives of the driver's functions is terrace's, too. */
static void entry_point(void)
{
    Dl_info info;
    void *function = NULL;
    enum cudaDriverEntryPointQueryResult result;
    ok(rt.cudaGetDriverEntryPointByVersion("cuMemAlloc", &function, 13000, cudaEnableDefault, &result));
    expect(result == cudaDriverEntryPointSuccess && dladdr(function, &info));
    expect(strstr(info.dli_fname, "libterrace-preload.so"));
    ok(rt.cudaGetDriverEntryPointByVersion("cuInit", &function, 13000, cudaEnableDefault, &result));
    expect(dladdr(function, &info) && strstr(info.dli_fname, "libcuda.so.1"));
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    reach();
    if (strcmp(what, "memory") == 0)
        memory(false);
    else if (strcmp(what, "ordered") == 0)
        memory(true);
    else if (strcmp(what, "entry_point") == 0)
        entry_point();
    else
        return 2;
    return 0;
}
