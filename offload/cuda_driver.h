/* cuda_driver.h - the CUDA driver's functions, as this build declares them.
 *
 * The driver's library, libcuda.so.1, is loaded at run time, and never linked:
 * a build needs no CUDA toolkit, and the same build runs where there is no
 * driver. What is declared here is compared with <cuda.h> wherever that is
 * installed, by cuda_check.c.
 * May call: terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_CUDA_DRIVER_H
#define TERRACE_OFFLOAD_CUDA_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- types and values ---------------------------------------------------- */

typedef unsigned cuda_result;
typedef unsigned cuda_attribute;
typedef unsigned cuda_capture; /* whether a stream is being captured */
typedef unsigned cuda_mode;    /* which calls a capture elsewhere forbids a thread */
typedef unsigned cuda_granularity;
typedef int cuda_device;
typedef unsigned long long cuda_address;
typedef unsigned long long cuda_memory; /* physical memory without an address */
typedef struct cuda_context_opaque *cuda_context;
typedef struct cuda_stream_opaque *cuda_stream;
typedef struct cuda_event_opaque *cuda_event;
typedef void (*cuda_host_function)(void *);

typedef struct {
    unsigned type; /* CUDA_ON_... */
    int id;
} cuda_location;

typedef struct {
    unsigned type; /* CUDA_PINNED */
    unsigned handle_types;
    cuda_location location;
    void *windows;
    struct {
        unsigned char compression, rdma;
        unsigned short usage;
        unsigned char reserved[4];
    } flags;
} cuda_property;

typedef struct {
    cuda_location location;
    unsigned flags; /* CUDA_READ_WRITE */
} cuda_access;

enum {
    CUDA_OK = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NOT_INITIALIZED = 3,
    CUDA_NO_DEVICE = 100,
    CUDA_INVALID_DEVICE = 101,
    CUDA_INVALID_CONTEXT = 201,
    CUDA_UNSUPPORTED_LIMIT = 215,
    CUDA_OPERATING_SYSTEM = 304,
    CUDA_INVALID_HANDLE = 400,
    CUDA_NOT_READY = 600,
    CUDA_ALREADY_REGISTERED = 712,
    CUDA_NOT_REGISTERED = 713,
    CUDA_NOT_PERMITTED = 800,
    CUDA_NOT_SUPPORTED = 801,
    CUDA_CAPTURE_FIRST = 900, /* what captures forbid: 900 to 908 */
    CUDA_CAPTURE_LAST = 908
};

enum { /* attributes of devices */
    CUDA_HAS_VIRTUAL_MEMORY = 102,
    CUDA_HAS_RDMA_WITH_THAT = 110,
    CUDA_NODE = 134,
    CUDA_HAS_NODE_MEMORY_WITH_THAT = 141,
    CUDA_HAS_HOST_MEMORY_WITH_THAT = 145
};

enum {
    CUDA_PINNED = 1,
    CUDA_ON_DEVICE = 1,
    CUDA_ON_HOST = 2,
    CUDA_ON_NODE = 3,
    CUDA_READ_WRITE = 3,
    CUDA_LEAST_GRANULARITY = 0,
    CUDA_REGISTER_PORTABLE = 1,
    CUDA_STREAM_NON_BLOCKING = 1,
    CUDA_EVENT_WITHOUT_TIME = 2,
    CUDA_NOT_CAPTURED = 0,
    CUDA_RELAXED = 2
};

/* ---- functions ----------------------------------------------------------- */

/* REQUIRED or OPTIONAL(member of the table, exported symbol, parameters). Names
 * without the suffix are older functions with other parameters. */
#define CUDA_FUNCTIONS(REQUIRED, OPTIONAL)                                                 \
    REQUIRED(init, cuInit, (unsigned))                                                     \
    REQUIRED(version, cuDriverGetVersion, (int *))                                         \
    REQUIRED(error_name, cuGetErrorName, (cuda_result, const char **))                     \
    REQUIRED(error_text, cuGetErrorString, (cuda_result, const char **))                   \
    REQUIRED(device_count, cuDeviceGetCount, (int *))                                      \
    REQUIRED(device_get, cuDeviceGet, (cuda_device *, int))                                \
    REQUIRED(device_name, cuDeviceGetName, (char *, int, cuda_device))                     \
    REQUIRED(device_attribute, cuDeviceGetAttribute, (int *, cuda_attribute, cuda_device)) \
    REQUIRED(device_bus, cuDeviceGetPCIBusId, (char *, int, cuda_device))                  \
    REQUIRED(context_retain, cuDevicePrimaryCtxRetain, (cuda_context *, cuda_device))      \
    REQUIRED(context_release, cuDevicePrimaryCtxRelease_v2, (cuda_device))                 \
    REQUIRED(context_get, cuCtxGetCurrent, (cuda_context *))                               \
    REQUIRED(context_set, cuCtxSetCurrent, (cuda_context))                                 \
    REQUIRED(memory_info, cuMemGetInfo_v2, (size_t *, size_t *))                           \
    REQUIRED(memory_alloc, cuMemAlloc_v2, (cuda_address *, size_t))                        \
    REQUIRED(memory_free, cuMemFree_v2, (cuda_address))                                    \
    REQUIRED(host_register, cuMemHostRegister_v2, (void *, size_t, unsigned))              \
    REQUIRED(host_unregister, cuMemHostUnregister, (void *))                               \
    REQUIRED(copy_in, cuMemcpyHtoDAsync_v2, (cuda_address, const void *, size_t, cuda_stream)) \
    REQUIRED(copy_out, cuMemcpyDtoHAsync_v2, (void *, cuda_address, size_t, cuda_stream))  \
    REQUIRED(stream_create, cuStreamCreate, (cuda_stream *, unsigned))                     \
    REQUIRED(stream_destroy, cuStreamDestroy_v2, (cuda_stream))                            \
    REQUIRED(stream_query, cuStreamQuery, (cuda_stream))                                   \
    REQUIRED(stream_synchronize, cuStreamSynchronize, (cuda_stream))                       \
    REQUIRED(stream_wait, cuStreamWaitEvent, (cuda_stream, cuda_event, unsigned))          \
    REQUIRED(stream_call, cuLaunchHostFunc, (cuda_stream, cuda_host_function, void *))     \
    REQUIRED(event_create, cuEventCreate, (cuda_event *, unsigned))                        \
    REQUIRED(event_record, cuEventRecord, (cuda_event, cuda_stream))                       \
    REQUIRED(event_query, cuEventQuery, (cuda_event))                                      \
    REQUIRED(event_destroy, cuEventDestroy_v2, (cuda_event))                               \
    OPTIONAL(stream_capturing, cuStreamIsCapturing, (cuda_stream, cuda_capture *))         \
    OPTIONAL(exchange_mode, cuThreadExchangeStreamCaptureMode, (cuda_mode *))              \
    OPTIONAL(reserve, cuMemAddressReserve,                                                 \
             (cuda_address *, size_t, size_t, cuda_address, unsigned long long))           \
    OPTIONAL(unreserve, cuMemAddressFree, (cuda_address, size_t))                          \
    OPTIONAL(create, cuMemCreate,                                                          \
             (cuda_memory *, size_t, const cuda_property *, unsigned long long))           \
    OPTIONAL(release, cuMemRelease, (cuda_memory))                                         \
    OPTIONAL(map, cuMemMap, (cuda_address, size_t, size_t, cuda_memory, unsigned long long)) \
    OPTIONAL(unmap, cuMemUnmap, (cuda_address, size_t))                                    \
    OPTIONAL(set_access, cuMemSetAccess, (cuda_address, size_t, const cuda_access *, size_t)) \
    OPTIONAL(granularity, cuMemGetAllocationGranularity,                                   \
             (size_t *, const cuda_property *, cuda_granularity))                          \
    OPTIONAL(copy_any, cuMemcpyAsync, (cuda_address, cuda_address, size_t, cuda_stream))   \
    OPTIONAL(fill, cuMemsetD8Async, (cuda_address, unsigned char, size_t, cuda_stream))

/* Empty until cuda_load() has succeeded, constant afterwards. */
struct cuda_driver {
#define CUDA_MEMBER(name, symbol, parameters) cuda_result (*name) parameters;
    CUDA_FUNCTIONS(CUDA_MEMBER, CUDA_MEMBER)
#undef CUDA_MEMBER
};
extern struct cuda_driver cuda;

/* ---- helpers ------------------------------------------------------------- */

/* Loads and initialises the driver, once; its number of devices. 0: there is none,
 * and `why` is told for people. */
int cuda_load(char *why, size_t len);

/* The name of the first function that managing virtual memory wants and the driver
 * has not; NULL: it has all. */
const char *cuda_lacks_virtual_memory(void);

/* What the driver returned as a TERRACE_E... code: here and nowhere else. */
int cuda_error(cuda_result r);

/* "CUDA_ERROR_OUT_OF_MEMORY (out of memory)" */
void cuda_text(cuda_result r, char *buf, size_t len);

/* What a thread had before cuda_enter(). */
struct cuda_scope {
    cuda_context before;
    cuda_mode mode;
    bool context, relaxed; /* these have been changed */
};

/* Makes a context current in this thread, and lets it call what a capture in
 * another thread would forbid. CUDA_NOT_INITIALIZED in a forked child, which has
 * to leave the driver alone. Where it fails, nothing has changed. */
cuda_result cuda_enter(cuda_context context, struct cuda_scope *scope);
/* The same to give something back, which would be lost otherwise: an error that may
 * pass gets a second try. */
cuda_result cuda_enter_again(cuda_context context, struct cuda_scope *scope);
void cuda_leave(struct cuda_scope *scope);

/* Also for that: true where the call succeeds, or does so when repeated. */
#define CUDA_UNDO(call) ((call) == CUDA_OK || (call) == CUDA_OK)

#endif
