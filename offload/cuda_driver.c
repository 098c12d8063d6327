/* cuda_driver.c - loading the CUDA driver, its errors, and whose context is current.
 *
 * A failed load is tried again by the next who asks, as a driver may be
 * installed meanwhile. The library is never unloaded: the driver has threads.
 *
 * The primary context is the one that the CUDA runtime and the frameworks use.
 * It is made current for each visit and what was current before put back, so
 * that no caller finds another one than it left. While a thread anywhere in the
 * process captures a graph, calls that allocate, free or ask for completion would
 * be refused, and spoil that capture, unless the calling thread has said that it
 * takes no part in it: so it says that for the visit, too. */
#define _GNU_SOURCE
#include "cuda_driver.h"

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#include "terrace_backend.h"

#define LIBRARY "libcuda.so.1"

struct cuda_driver cuda;
static pid_t owner;     /* who initialised it; 0: nobody */
static int devices;     /* then */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* for loading */

/* ---- errors -------------------------------------------------------------- */

int cuda_error(cuda_result r)
{
    if (r >= CUDA_CAPTURE_FIRST && r <= CUDA_CAPTURE_LAST)
        return -TERRACE_EBUSY;
    switch (r) {
    case CUDA_OK: return 0;
    case CUDA_INVALID_VALUE:
    case CUDA_INVALID_HANDLE: return -TERRACE_EINVAL;
    case CUDA_OUT_OF_MEMORY: return -TERRACE_EDEVMEM;
    case CUDA_NO_DEVICE:
    case CUDA_INVALID_DEVICE: return -TERRACE_ENOENT;
    case CUDA_OPERATING_SYSTEM: return -TERRACE_ESYSTEM;
    case CUDA_NOT_READY: return -TERRACE_EAGAIN;
    case CUDA_NOT_PERMITTED: return -TERRACE_EPERM;
    case CUDA_UNSUPPORTED_LIMIT:
    case CUDA_ALREADY_REGISTERED:
    case CUDA_NOT_REGISTERED:
    case CUDA_NOT_SUPPORTED: return -TERRACE_ENOTSUP;
    default: return -TERRACE_EDEVICE; /* most others end the context */
    }
}

void cuda_text(cuda_result r, char *buf, size_t len)
{
    const char *name = NULL, *text = NULL;
    if (cuda.error_name(r, &name) || cuda.error_text(r, &text) || !name || !text)
        snprintf(buf, len, "CUDA error %u", r);
    else
        snprintf(buf, len, "%s (%s)", name, text);
}

/* ---- loading ------------------------------------------------------------- */

static const char *symbols(void *library)
{
    struct cuda_driver found = {0};
    const char *missing = NULL;
#define CUDA_FIND(name, symbol, parameters) *(void **)&found.name = dlsym(library, #symbol);
#define CUDA_NEED(name, symbol, parameters)                                                \
    CUDA_FIND(name, symbol, parameters)                                                    \
    missing = missing ? missing : found.name ? NULL : #symbol;
    CUDA_FUNCTIONS(CUDA_NEED, CUDA_FIND)
#undef CUDA_NEED
#undef CUDA_FIND
    if (!missing)
        cuda = found;
    return missing;
}

static int load_locked(char *why, size_t len)
{
    char text[200];
    void *library = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        const char *error = dlerror();
        snprintf(why, len, "no NVIDIA driver: %s", error ? error : LIBRARY " cannot be loaded");
        return 0;
    }
    const char *missing = symbols(library);
    if (missing) {
        snprintf(why, len, LIBRARY " has no function %s; a driver of CUDA 10.2 or later is needed", missing);
        dlclose(library);
        return 0;
    }
    int n = 0;
    cuda_result r = cuda.init(0);
    if (r == CUDA_OK)
        r = cuda.device_count(&n);
    if (r || n <= 0) {
        cuda_text(r ? r : CUDA_NO_DEVICE, text, sizeof text);
        snprintf(why, len, "the NVIDIA driver has no device to use: %s", text);
        return 0;
    }
    owner = getpid();
    devices = n;
    return n;
}

int cuda_load(char *why, size_t len)
{
    int n = 0;
    pthread_mutex_lock(&lock);
    if (!owner)
        n = load_locked(why, len);
    else if (owner == getpid())
        n = devices;
    else
        snprintf(why, len, "this process was forked from one that uses the NVIDIA driver, which has to be "
                           "left alone then; open managers in processes that were started anew");
    pthread_mutex_unlock(&lock);
    return n;
}

const char *cuda_lacks_virtual_memory(void)
{
    return !cuda.reserve       ? "cuMemAddressReserve"
           : !cuda.unreserve   ? "cuMemAddressFree"
           : !cuda.create      ? "cuMemCreate"
           : !cuda.release     ? "cuMemRelease"
           : !cuda.map         ? "cuMemMap"
           : !cuda.unmap       ? "cuMemUnmap"
           : !cuda.set_access  ? "cuMemSetAccess"
           : !cuda.granularity ? "cuMemGetAllocationGranularity"
                               : NULL;
}

/* ---- visits -------------------------------------------------------------- */

/* Setting may report what earlier calls of others came to, although it did it. */
static void restore(cuda_context before)
{
    cuda_context now = NULL;
    if (cuda.context_set(before) && (cuda.context_get(&now) || now != before))
        cuda.context_set(before);
}

cuda_result cuda_enter(cuda_context context, struct cuda_scope *scope)
{
    *scope = (struct cuda_scope){.mode = CUDA_RELAXED};
    if (owner != getpid())
        return CUDA_NOT_INITIALIZED;
    cuda_result r = cuda.context_get(&scope->before);
    if (r == CUDA_OK && scope->before != context) {
        r = cuda.context_set(context);
        scope->context = true;
    }
    if (r == CUDA_OK && cuda.exchange_mode)
        scope->relaxed = cuda.exchange_mode(&scope->mode) == CUDA_OK;
    if (r && scope->context)
        restore(scope->before);
    return r;
}

cuda_result cuda_enter_again(cuda_context context, struct cuda_scope *scope)
{
    cuda_result r = cuda_enter(context, scope);
    return r == CUDA_OK || owner != getpid() ? r : cuda_enter(context, scope);
}

void cuda_leave(struct cuda_scope *scope)
{
    if (scope->relaxed && cuda.exchange_mode(&scope->mode) && scope->mode != CUDA_RELAXED)
        cuda.exchange_mode(&scope->mode);
    if (scope->context)
        restore(scope->before);
}
