/* cuda_entries.c - the CUDA driver's entries that allocate, free, tell and wait.
 *
 * Each begins or ends with the driver's own function. What is not terrace's is passed
 * on as it is, so that the driver has the last word, and its errors are its own. Work
 * that is put into streams passes through cuda_work.c.
 *
 * May call: cuda_reach.c, cuda_work.c, cuda_use.c, cuda_memory.c, mapping.c, guard.c. */
#include <pthread.h>
#include <sys/queue.h>

#include "cuda_hooks.h"
#include "small.h"

#define CALLER __builtin_return_address(0)

enum { PITCH = 512 }; /* rows begin at multiples of it: what all devices read and write best */

/* The default stream of programs in which each thread has its own. */
static cuda_stream own_stream(cuda_stream stream)
{
    return stream ? stream : CUDA_STREAM_PER_THREAD;
}

/* ---- allocating and freeing -------------------------------------------------- */

ENTRY cuda_result cuMemAlloc_v2(cuda_address *out, size_t bytes)
{
    CUDA_NEEDS(cuMemAlloc_v2);
    return memory_new(bytes, CALLER, out) ? CUDA_OK : driver.cuMemAlloc_v2(out, bytes);
}

ENTRY cuda_result cuMemAllocPitch_v2(cuda_address *out, size_t *pitch, size_t width, size_t height, unsigned element)
{
    CUDA_NEEDS(cuMemAllocPitch_v2);
    size_t row = round_up(width, PITCH), bytes;
    bool known = pitch && (element == 4 || element == 8 || element == 16) && row >= width &&
                 !__builtin_mul_overflow(row, height, &bytes);
    if (!known || !memory_new(bytes, CALLER, out))
        return driver.cuMemAllocPitch_v2(out, pitch, width, height, element);
    *pitch = row;
    return CUDA_OK;
}

ENTRY cuda_result cuMemFree_v2(cuda_address at)
{
    CUDA_NEEDS(cuMemFree_v2);
    return memory_free(at) ? CUDA_OK : driver.cuMemFree_v2(at);
}

ENTRY cuda_result cuMemAllocAsync(cuda_address *out, size_t bytes, cuda_stream stream)
{
    CUDA_NEEDS(cuMemAllocAsync);
    return memory_new_ordered(bytes, CALLER, stream, out) ? CUDA_OK : driver.cuMemAllocAsync(out, bytes, stream);
}

ENTRY cuda_result cuMemAllocAsync_ptsz(cuda_address *out, size_t bytes, cuda_stream stream)
{
    CUDA_NEEDS(cuMemAllocAsync_ptsz);
    return memory_new_ordered(bytes, CALLER, own_stream(stream), out)
               ? CUDA_OK
               : driver.cuMemAllocAsync_ptsz(out, bytes, stream);
}

/* Other pools than a device's own have properties that only the driver knows. */
static bool is_default_pool(cuda_pool pool)
{
    cuda_device device;
    cuda_pool of_device;
    return driver.cuDeviceGetDefaultMemPool && driver.cuCtxGetDevice && !driver.cuCtxGetDevice(&device) &&
           !driver.cuDeviceGetDefaultMemPool(&of_device, device) && of_device == pool;
}

ENTRY cuda_result cuMemAllocFromPoolAsync(cuda_address *out, size_t bytes, cuda_pool pool, cuda_stream stream)
{
    CUDA_NEEDS(cuMemAllocFromPoolAsync);
    if (is_default_pool(pool) && memory_new_ordered(bytes, CALLER, stream, out))
        return CUDA_OK;
    return driver.cuMemAllocFromPoolAsync(out, bytes, pool, stream);
}

ENTRY cuda_result cuMemAllocFromPoolAsync_ptsz(cuda_address *out, size_t bytes, cuda_pool pool, cuda_stream stream)
{
    CUDA_NEEDS(cuMemAllocFromPoolAsync_ptsz);
    if (is_default_pool(pool) && memory_new_ordered(bytes, CALLER, own_stream(stream), out))
        return CUDA_OK;
    return driver.cuMemAllocFromPoolAsync_ptsz(out, bytes, pool, stream);
}

ENTRY cuda_result cuMemFreeAsync(cuda_address at, cuda_stream stream)
{
    CUDA_NEEDS(cuMemFreeAsync);
    return memory_free_ordered(at, stream) ? CUDA_OK : driver.cuMemFreeAsync(at, stream);
}

ENTRY cuda_result cuMemFreeAsync_ptsz(cuda_address at, cuda_stream stream)
{
    CUDA_NEEDS(cuMemFreeAsync_ptsz);
    return memory_free_ordered(at, own_stream(stream)) ? CUDA_OK : driver.cuMemFreeAsync_ptsz(at, stream);
}

/* ---- what is there ------------------------------------------------------------- */

ENTRY cuda_result cuMemGetInfo_v2(size_t *unused, size_t *all)
{
    CUDA_NEEDS(cuMemGetInfo_v2);
    cuda_result r = driver.cuMemGetInfo_v2(unused, all);
    if (r == CUDA_OK)
        memory_tell(unused, all);
    return r;
}

ENTRY cuda_result cuMemGetAddressRange_v2(cuda_address *base, size_t *bytes, cuda_address at)
{
    struct memory_range range;
    CUDA_NEEDS(cuMemGetAddressRange_v2);
    if (!memory_range(at, &range))
        return driver.cuMemGetAddressRange_v2(base, bytes, at);
    if (base)
        *base = range.base;
    if (bytes)
        *bytes = range.bytes;
    return CUDA_OK;
}

/* What a program would hear of memory that cuMemAlloc() had given it, wherever its
 * bytes are. False: the driver knows best. */
static bool attribute_of(const struct memory_range *range, cuda_pointer_attribute which, void *value)
{
    if (!value)
        return false;
    switch (which) {
    case CUDA_POINTER_CONTEXT: *(cuda_context *)value = range->context; return true;
    case CUDA_POINTER_MEMORY_TYPE: *(unsigned *)value = CUDA_MEMORY_OF_DEVICE; return true;
    case CUDA_POINTER_ORDINAL: *(int *)value = range->device; return true;
    case CUDA_POINTER_RANGE_START: *(cuda_address *)value = range->base; return true;
    case CUDA_POINTER_RANGE_SIZE: *(size_t *)value = range->bytes; return true;
    default: return false;
    }
}

ENTRY cuda_result cuPointerGetAttribute(void *value, cuda_pointer_attribute which, cuda_address at)
{
    struct memory_range range;
    CUDA_NEEDS(cuPointerGetAttribute);
    if (memory_range(at, &range) && attribute_of(&range, which, value))
        return CUDA_OK;
    return driver.cuPointerGetAttribute(value, which, at);
}

ENTRY cuda_result cuPointerGetAttributes(unsigned n, cuda_pointer_attribute *which, void **values, cuda_address at)
{
    struct memory_range range;
    CUDA_NEEDS(cuPointerGetAttributes);
    cuda_result r = driver.cuPointerGetAttributes(n, which, values, at);
    if (r == CUDA_OK && memory_range(at, &range))
        for (unsigned i = 0; i < n; i++)
            (void)attribute_of(&range, which[i], values[i]);
    return r;
}

/* ---- who else uses it ------------------------------------------------------------ */

/* What another process is to use stays where it is. */
ENTRY cuda_result cuIpcGetMemHandle(cuda_ipc_handle *handle, cuda_address at)
{
    struct memory_range range;
    CUDA_NEEDS(cuIpcGetMemHandle);
    if (!memory_range(at, &range))
        return driver.cuIpcGetMemHandle(handle, at);
    if (!memory_keep(at, true))
        return CUDA_OUT_OF_MEMORY;
    cuda_result r = driver.cuIpcGetMemHandle(handle, at);
    if (r) {
        (void)memory_keep(at, false);
        say("the driver does not share memory of %zu bytes with other processes that terrace has made: leave the device "
            "out of TERRACE_TIERS, or set TERRACE_MIN_SIZE above that size", range.bytes);
    }
    return r;
}

ENTRY cuda_result cuDeviceCanAccessPeer(int *can, cuda_device device, cuda_device peer)
{
    CUDA_NEEDS(cuDeviceCanAccessPeer);
    cuda_result r = driver.cuDeviceCanAccessPeer(can, device, peer);
    if (r == CUDA_OK && *can && memory_excludes_peers(peer) && !memory_is_shared(CALLER))
        *can = 0;
    return r;
}

static int device_of(cuda_context context)
{
    cuda_context popped;
    cuda_device device = -1;
    if (!driver.cuCtxPushCurrent_v2 || driver.cuCtxPushCurrent_v2(context))
        return -1;
    (void)driver.cuCtxGetDevice(&device);
    (void)driver.cuCtxPopCurrent_v2(&popped);
    return device;
}

/* Memory with terrace's mappings is its own device's alone. */
ENTRY cuda_result cuCtxEnablePeerAccess(cuda_context peer, unsigned flags)
{
    CUDA_NEEDS(cuCtxEnablePeerAccess);
    if (memory_is_shared(CALLER))
        return driver.cuCtxEnablePeerAccess(peer, flags);
    int device = device_of(peer);
    if (memory_excludes_peers(device)) {
        note("CUDA device %d is not reached by others: it has memory of terrace's", device);
        return CUDA_PEERLESS;
    }
    cuda_result r = driver.cuCtxEnablePeerAccess(peer, flags);
    if (r == CUDA_OK)
        memory_leave(device);
    return r;
}

/* ---- host memory that the driver knows --------------------------------------------- */

/* Of malloc and mmap, in which terrace moves pages. */
struct registered {
    LIST_ENTRY(registered) link;
    void *at;
    size_t bytes;
};

static LIST_HEAD(, registered) registered = LIST_HEAD_INITIALIZER(registered);
static pthread_mutex_t registering = PTHREAD_MUTEX_INITIALIZER;

static void add(struct registered *r)
{
    pthread_mutex_lock(&registering);
    LIST_INSERT_HEAD(&registered, r, link);
    pthread_mutex_unlock(&registering);
}

static struct registered *take(const void *at)
{
    struct registered *r;
    pthread_mutex_lock(&registering);
    LIST_FOREACH(r, &registered, link)
        if (r->at == at)
            break;
    if (r)
        LIST_REMOVE(r, link);
    pthread_mutex_unlock(&registering);
    return r;
}

typedef cuda_result register_fn(void *, size_t, unsigned);

static cuda_result register_held(register_fn *own, void *at, size_t bytes, unsigned flags)
{
    struct registered *r = small_malloc(sizeof *r);
    if (!r || mapping_hold(at, bytes, true)) {
        small_free(r);
        say("%zu bytes of host memory cannot be kept in memory for the device: raise TERRACE_LIMIT_HOST", bytes);
        return CUDA_OUT_OF_MEMORY;
    }
    cuda_result result = own(at, bytes, flags);
    if (result) {
        (void)mapping_hold(at, bytes, false);
        small_free(r);
        return result;
    }
    *r = (struct registered){.at = at, .bytes = bytes};
    add(r);
    return CUDA_OK;
}

/* Whether a block of terrace's is in it, and it is not terrace who asks. */
static bool is_stable(const char *at, size_t bytes, const void *caller)
{
    return !inside && !guard_is_library(caller) && bytes && bytes <= SIZE_MAX - (uintptr_t)at &&
           table_next(at, at + bytes);
}

ENTRY cuda_result cuMemHostRegister_v2(void *at, size_t bytes, unsigned flags)
{
    CUDA_NEEDS(cuMemHostRegister_v2);
    return is_stable(at, bytes, CALLER) ? register_held(driver.cuMemHostRegister_v2, at, bytes, flags)
                                        : driver.cuMemHostRegister_v2(at, bytes, flags);
}

ENTRY cuda_result cuMemHostRegister(void *at, size_t bytes, unsigned flags)
{
    CUDA_NEEDS(cuMemHostRegister);
    return is_stable(at, bytes, CALLER) ? register_held(driver.cuMemHostRegister, at, bytes, flags)
                                        : driver.cuMemHostRegister(at, bytes, flags);
}

ENTRY cuda_result cuMemHostUnregister(void *at)
{
    CUDA_NEEDS(cuMemHostUnregister);
    cuda_result result = driver.cuMemHostUnregister(at);
    struct registered *r = result ? NULL : take(at);
    if (r) {
        (void)mapping_hold(r->at, r->bytes, false);
        small_free(r);
    }
    return result;
}

/* ---- waiting ------------------------------------------------------------------------ */

static cuda_context current(void)
{
    cuda_context context = NULL;
    (void)driver.cuCtxGetCurrent(&context);
    return context;
}

ENTRY cuda_result cuCtxSynchronize(void)
{
    CUDA_NEEDS(cuCtxSynchronize);
    uint64_t noted = work_noted();
    cuda_result r = driver.cuCtxSynchronize();
    if (r == CUDA_OK && memory_count) {
        work_done(current(), noted);
        (void)memory_settle();
    }
    return r;
}

ENTRY cuda_result cuCtxSynchronize_v2(cuda_context context)
{
    CUDA_NEEDS(cuCtxSynchronize_v2);
    uint64_t noted = work_noted();
    cuda_result r = driver.cuCtxSynchronize_v2(context);
    if (r == CUDA_OK && memory_count) {
        work_done(context ? context : current(), noted);
        (void)memory_settle();
    }
    return r;
}

static cuda_result settled(cuda_result r)
{
    if (r == CUDA_OK)
        (void)memory_settle();
    return r;
}

ENTRY cuda_result cuStreamSynchronize(cuda_stream stream)
{
    CUDA_NEEDS(cuStreamSynchronize);
    return settled(driver.cuStreamSynchronize(stream));
}

ENTRY cuda_result cuStreamSynchronize_ptsz(cuda_stream stream)
{
    CUDA_NEEDS(cuStreamSynchronize_ptsz);
    return settled(driver.cuStreamSynchronize_ptsz(stream));
}

ENTRY cuda_result cuEventSynchronize(cuda_event event)
{
    CUDA_NEEDS(cuEventSynchronize);
    return settled(driver.cuEventSynchronize(event));
}

ENTRY cuda_result cuStreamDestroy_v2(cuda_stream stream)
{
    CUDA_NEEDS(cuStreamDestroy_v2);
    work_destroys(stream);
    return driver.cuStreamDestroy_v2(stream);
}

/* ---- captures -------------------------------------------------------------------------- */

/* What will be captured is not known: all that there is on the device stays, at the
 * place that it has from before. The capture counts before the driver knows of it. */
static void capture(void)
{
    cuda_device device;
    if (memory_count && driver.cuCtxGetDevice && !driver.cuCtxGetDevice(&device))
        memory_keep_all(device);
    work_captures(1);
}

#define BEGIN(symbol, parameters, arguments)     \
    ENTRY cuda_result symbol parameters          \
    {                                            \
        CUDA_NEEDS(symbol);                      \
        capture();                               \
        cuda_result r = driver.symbol arguments; \
        if (r)                                   \
            work_captures(-1);                   \
        return r;                                \
    }
BEGIN(cuStreamBeginCapture, (cuda_stream stream), (stream))
BEGIN(cuStreamBeginCapture_ptsz, (cuda_stream stream), (stream))
BEGIN(cuStreamBeginCapture_v2, (cuda_stream stream, cuda_mode mode), (stream, mode))
BEGIN(cuStreamBeginCapture_v2_ptsz, (cuda_stream stream, cuda_mode mode), (stream, mode))
BEGIN(cuStreamBeginCaptureToGraph,
      (cuda_stream stream, cuda_graph graph, const cuda_node *nodes, const cuda_edge *edges, size_t n, cuda_mode mode),
      (stream, graph, nodes, edges, n, mode))
BEGIN(cuStreamBeginCaptureToGraph_ptsz,
      (cuda_stream stream, cuda_graph graph, const cuda_node *nodes, const cuda_edge *edges, size_t n, cuda_mode mode),
      (stream, graph, nodes, edges, n, mode))

static bool is_captured(cuda_stream stream)
{
    cuda_capture status = 0;
    return driver.cuStreamIsCapturing && driver.cuStreamIsCapturing(stream, &status) == CUDA_OK && status;
}

typedef cuda_result end_fn(cuda_stream, cuda_graph *);

/* A capture may end with an error, or go on after one. */
static cuda_result end_capture(end_fn *own, cuda_stream given, cuda_stream stream, cuda_graph *graph)
{
    bool before = is_captured(stream);
    cuda_result r = own(given, graph);
    if (before && !is_captured(stream))
        work_captures(-1);
    return r;
}

ENTRY cuda_result cuStreamEndCapture(cuda_stream stream, cuda_graph *graph)
{
    CUDA_NEEDS(cuStreamEndCapture);
    return end_capture(driver.cuStreamEndCapture, stream, stream, graph);
}

ENTRY cuda_result cuStreamEndCapture_ptsz(cuda_stream stream, cuda_graph *graph)
{
    CUDA_NEEDS(cuStreamEndCapture_ptsz);
    return end_capture(driver.cuStreamEndCapture_ptsz, stream, own_stream(stream), graph);
}

/* ---- the end of code and contexts ------------------------------------------------------------------ */

ENTRY cuda_result cuModuleUnload(cuda_module module)
{
    CUDA_NEEDS(cuModuleUnload);
    use_forget();
    return driver.cuModuleUnload(module);
}

ENTRY cuda_result cuLibraryUnload(cuda_library library)
{
    CUDA_NEEDS(cuLibraryUnload);
    use_forget();
    return driver.cuLibraryUnload(library);
}

ENTRY cuda_result cuCtxDestroy_v2(cuda_context context)
{
    CUDA_NEEDS(cuCtxDestroy_v2);
    if (context && memory_count)
        memory_free_all(context, -1);
    use_forget();
    cuda_result r = driver.cuCtxDestroy_v2(context);
    if (r == CUDA_OK)
        work_forget(context);
    return r;
}

/* The context that a reset would empty is terrace's, too. */
static bool reset(cuda_device device)
{
    if (!memory_has_tier(device))
        return false;
    memory_free_all(NULL, device);
    note("CUDA device %d is not reset, as terrace uses it: its memory is given back", device);
    return true;
}

ENTRY cuda_result cuDevicePrimaryCtxReset(cuda_device device)
{
    CUDA_NEEDS(cuDevicePrimaryCtxReset);
    return reset(device) ? CUDA_OK : driver.cuDevicePrimaryCtxReset(device);
}

ENTRY cuda_result cuDevicePrimaryCtxReset_v2(cuda_device device)
{
    CUDA_NEEDS(cuDevicePrimaryCtxReset_v2);
    return reset(device) ? CUDA_OK : driver.cuDevicePrimaryCtxReset_v2(device);
}
