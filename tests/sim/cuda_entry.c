/* cuda_entry.c - the simulated CUDA driver: codes, their names, and finding
 * functions by name and version. The old forms of functions whose names were
 * taken over by later ones are there, too, as traps: a program that finds them
 * asked for the name without the suffix. */
#include <string.h>

#include "cuda_table.h"

/* ---- codes ------------------------------------------------------------------------------- */

static int code_of(int error)
{
    static const int codes[SIM_ERRORS] = {
        [SIM_EINVAL] = CUDA_ERROR_INVALID_VALUE,
        [SIM_ENOMEM] = CUDA_ERROR_OUT_OF_MEMORY,
        [SIM_ENOTINIT] = CUDA_ERROR_NOT_INITIALIZED,
        [SIM_ENODEVICE] = CUDA_ERROR_NO_DEVICE,
        [SIM_EBADDEVICE] = CUDA_ERROR_INVALID_DEVICE,
        [SIM_ENOCONTEXT] = CUDA_ERROR_INVALID_CONTEXT,
        [SIM_EDESTROYED] = CUDA_ERROR_CONTEXT_IS_DESTROYED,
        [SIM_EHANDLE] = CUDA_ERROR_INVALID_HANDLE,
        [SIM_ENOTFOUND] = CUDA_ERROR_NOT_FOUND,
        [SIM_ENOTREADY] = CUDA_ERROR_NOT_READY,
        [SIM_EILLEGAL] = CUDA_ERROR_ILLEGAL_ADDRESS,
        [SIM_EREGISTERED] = CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED,
        [SIM_ENOTREGISTERED] = CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED,
        [SIM_ENOTPERMITTED] = CUDA_ERROR_NOT_PERMITTED,
        [SIM_ENOTSUP] = CUDA_ERROR_NOT_SUPPORTED,
        [SIM_EPEERS] = CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED,
        [SIM_ENOPEERS] = CUDA_ERROR_PEER_ACCESS_NOT_ENABLED,
        [SIM_EPEERLESS] = CUDA_ERROR_PEER_ACCESS_UNSUPPORTED,
        [SIM_ECAPTURING] = CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED,
        [SIM_EINVALIDATED] = CUDA_ERROR_STREAM_CAPTURE_INVALIDATED,
        [SIM_ESTATE] = CUDA_ERROR_ILLEGAL_STATE,
        [SIM_EUNMATCHED] = CUDA_ERROR_STREAM_CAPTURE_UNMATCHED,
        [SIM_EUNJOINED] = CUDA_ERROR_STREAM_CAPTURE_UNJOINED,
        [SIM_EIMPLICIT] = CUDA_ERROR_STREAM_CAPTURE_IMPLICIT,
        [SIM_ECAPTURED] = CUDA_ERROR_CAPTURED_EVENT,
        [SIM_EMERGE] = CUDA_ERROR_STREAM_CAPTURE_MERGE,
        [SIM_EISOLATION] = CUDA_ERROR_STREAM_CAPTURE_ISOLATION,
        [SIM_ETHREAD] = CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD,
    };
    if (error == SIM_ELOST) {
        const struct context *context = context_current();
        int lost = context ? context->device->lost_code : 0;
        return lost ? lost : CUDA_ERROR_UNKNOWN;
    }
    return codes[error];
}

static uint64_t stream_of(void *stream)
{
    return cuda_stream(stream);
}

const struct vendor vendor = {.prefix = "SIM_CUDA_", .code = code_of, .stream = stream_of};

int cuda_misused(const char *call, const char *what)
{
    misuse("%s: %s", call, what);
    return entry_leave(SIM_EINVAL);
}

static const char *name_of(int code)
{
#define NAME(name, value)                     \
    if (code == (value) && !strncmp(#name, "CUDA_", 5)) \
        return #name;
    SIM_CUDA_CONSTANTS(NAME)
#undef NAME
    return NULL;
}

CUresult cuGetErrorName(CUresult error, const char **name)
{
    if (!name)
        return CUDA_ERROR_INVALID_VALUE;
    *name = name_of(error);
    return *name ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUresult cuGetErrorString(CUresult error, const char **text)
{
    CUresult r = cuGetErrorName(error, text);
    if (!r && error == CUDA_ERROR_OUT_OF_MEMORY)
        *text = "simulated: out of memory";
    return r;
}

/* ---- finding functions --------------------------------------------------------------------- */

SIM_EXPORT CUresult cuGetProcAddress(const char *base, void **function, int version, cuuint64_t flags);

static const struct function {
    const char *base;
    int version;
    void (*function)(void);
} functions[] = {
#define FUNCTION(base, version, name, parameters) {#base, version, (void (*)(void))name},
    SIM_CUDA_FUNCTIONS(FUNCTION)
#undef FUNCTION
    {"cuGetProcAddress", 11030, (void (*)(void))cuGetProcAddress},
};
enum { FUNCTIONS = sizeof functions / sizeof functions[0] };

/* The newest form that a version knows; whether there is one in later ones. */
static const struct function *find(const char *base, int version, bool *later)
{
    const struct function *best = NULL;
    *later = false;
    for (int i = 0; i < FUNCTIONS; i++) {
        if (strcmp(functions[i].base, base) != 0)
            continue;
        if (functions[i].version > version)
            *later = true;
        else if (!best || functions[i].version > best->version)
            best = &functions[i];
    }
    return best;
}

CUresult cuGetProcAddress_v2(const char *base, void **function, int version, cuuint64_t flags,
                             CUdriverProcAddressQueryResult *status)
{
    static struct entry entry = {.name = __func__};
    int refused = entry_enter(&entry, ENTRY_ANY);
    if (refused)
        return refused;
    if (!base || !function || flags > 2 || version > sim_get("DRIVER_VERSION"))
        return MISUSED("no name, unknown flags, or a version above the driver's");
    bool later;
    const struct function *found = find(base, version, &later);
    *function = found ? (void *)found->function : NULL;
    if (status)
        *status = found   ? CU_GET_PROC_ADDRESS_SUCCESS
                  : later ? CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT
                          : CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND;
    return entry_leave(SIM_OK);
}

/* The form of version 11.3, which cannot say why there is no function. */
CUresult cuGetProcAddress(const char *base, void **function, int version, cuuint64_t flags)
{
    CUdriverProcAddressQueryResult status;
    CUresult r = cuGetProcAddress_v2(base, function, version, flags, &status);
    return r ? r : status ? CUDA_ERROR_NOT_FOUND : CUDA_SUCCESS;
}

/* ---- old forms ------------------------------------------------------------------------------- */

#define OLD(old)                                                                     \
    SIM_EXPORT CUresult old(void);                                                   \
    CUresult old(void)                                                               \
    {                                                                                \
        static struct entry entry = {.name = __func__};                              \
        int refused = entry_enter(&entry, ENTRY_ANY);                                \
        return refused ? refused : MISUSED("the form of CUDA 2 or of before _v2");   \
    }
OLD(cuMemAlloc)
OLD(cuMemFree)
OLD(cuMemGetInfo)
OLD(cuMemcpyHtoD)
OLD(cuMemcpyDtoH)
OLD(cuMemcpyHtoDAsync)
OLD(cuMemcpyDtoHAsync)
OLD(cuMemcpyDtoDAsync)
OLD(cuMemHostRegister)
OLD(cuMemHostGetDevicePointer)
OLD(cuStreamDestroy)
OLD(cuEventDestroy)
OLD(cuDeviceTotalMem)
OLD(cuDevicePrimaryCtxRelease)
OLD(cuStreamWaitValue64)
OLD(cuStreamWriteValue64)
OLD(cuStreamBeginCapture)
