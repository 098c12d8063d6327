/* cudalike.h - the runtimes in CUDA's shape: their functions, and a row for each vendor.
 *
 * CUDA's runtime library has been copied function by function: the same arguments in
 * the same order under another prefix. So there is one table of functions here, and in
 * cudalike.c a row of values for each vendor.
 * May call: runtime.h. */
#ifndef TERRACE_OFFLOAD_CUDALIKE_H
#define TERRACE_OFFLOAD_CUDALIKE_H

#include "runtime.h"

/* Types, as far as they are told apart: handles are pointers everywhere. */
typedef int cudalike_code, cudalike_kind, cudalike_status, cudalike_mode;
typedef void *cudalike_stream, *cudalike_event, *cudalike_properties;

/* REQUIRED or OPTIONAL(member of the table, name without the prefix, result, parameters). */
#define CUDALIKE_FUNCTIONS(REQUIRED, OPTIONAL)                                             \
    REQUIRED(device_count, GetDeviceCount, cudalike_code, (int *))                         \
    REQUIRED(device_set, SetDevice, cudalike_code, (int))                                  \
    REQUIRED(device_get, GetDevice, cudalike_code, (int *))                                \
    REQUIRED(memory_info, MemGetInfo, cudalike_code, (size_t *, size_t *))                 \
    REQUIRED(allocate, Malloc, cudalike_code, (void **, size_t))                           \
    REQUIRED(release, Free, cudalike_code, (void *))                                       \
    REQUIRED(copy, MemcpyAsync, cudalike_code,                                             \
             (void *, const void *, size_t, cudalike_kind, cudalike_stream))               \
    REQUIRED(fill, MemsetAsync, cudalike_code, (void *, int, size_t, cudalike_stream))     \
    REQUIRED(stream_create, StreamCreateWithFlags, cudalike_code, (cudalike_stream *, unsigned)) \
    REQUIRED(stream_destroy, StreamDestroy, cudalike_code, (cudalike_stream))              \
    REQUIRED(stream_synchronize, StreamSynchronize, cudalike_code, (cudalike_stream))      \
    REQUIRED(stream_query, StreamQuery, cudalike_code, (cudalike_stream))                  \
    REQUIRED(stream_wait, StreamWaitEvent, cudalike_code,                                  \
             (cudalike_stream, cudalike_event, unsigned))                                  \
    REQUIRED(event_create, EventCreateWithFlags, cudalike_code, (cudalike_event *, unsigned)) \
    REQUIRED(event_destroy, EventDestroy, cudalike_code, (cudalike_event))                 \
    REQUIRED(event_record, EventRecord, cudalike_code, (cudalike_event, cudalike_stream))  \
    REQUIRED(event_query, EventQuery, cudalike_code, (cudalike_event))                     \
    OPTIONAL(host_register, HostRegister, cudalike_code, (void *, size_t, unsigned))       \
    OPTIONAL(host_unregister, HostUnregister, cudalike_code, (void *))                     \
    OPTIONAL(peer_can, DeviceCanAccessPeer, cudalike_code, (int *, int, int))              \
    OPTIONAL(peer_enable, DeviceEnablePeerAccess, cudalike_code, (int, unsigned))          \
    OPTIONAL(peer_copy, MemcpyPeerAsync, cudalike_code,                                    \
             (void *, int, const void *, int, size_t, cudalike_stream))                    \
    OPTIONAL(properties, GetDeviceProperties, cudalike_code, (cudalike_properties, int))   \
    OPTIONAL(bus, DeviceGetPCIBusId, cudalike_code, (char *, int, int))                    \
    OPTIONAL(last_error, GetLastError, cudalike_code, (void))                              \
    OPTIONAL(error_name, GetErrorName, const char *, (cudalike_code))                      \
    OPTIONAL(error_text, GetErrorString, const char *, (cudalike_code))                    \
    OPTIONAL(capturing, StreamIsCapturing, cudalike_code, (cudalike_stream, cudalike_status *)) \
    OPTIONAL(exchange_mode, ThreadExchangeStreamCaptureMode, cudalike_code, (cudalike_mode *))

struct cudalike_functions {
#define CUDALIKE_MEMBER(member, name, result, parameters) result(*member) parameters;
    CUDALIKE_FUNCTIONS(CUDALIKE_MEMBER, CUDALIKE_MEMBER)
#undef CUDALIKE_MEMBER
};

/* What a vendor calls by numbers. */
struct cudalike_values {
    cudalike_code invalid_value, out_of_memory, no_device, invalid_device, invalid_handle, not_ready;
    cudalike_code already_registered, not_registered, not_supported, already_peers;
    cudalike_code capture_first, capture_last; /* what captures forbid */
    cudalike_kind kind[RUNTIME_WAYS];
    unsigned stream_non_blocking, event_without_time, register_portable;
    /* From here on, 0: there is none, or it is not known. */
    cudalike_code not_permitted, also_out_of_memory;
    bool tells_captures;   /* the function that does is as CUDA's */
    cudalike_mode relaxed; /* which calls a capture elsewhere forbids a thread: none */
};

/* Their values for each vendor: VALUE(member, number, the vendor's name for it).
 *
 * HIP: hip/hip_runtime_api.h and hip/driver_types.h of Debian's libamdhip64-dev 5.2.3,
 * with which cudalike_check_hip.c compares them where that is installed. */
#define CUDALIKE_HIP(VALUE)                                                                \
    VALUE(invalid_value, 1, hipErrorInvalidValue)                                          \
    VALUE(out_of_memory, 2, hipErrorOutOfMemory)                                           \
    VALUE(no_device, 100, hipErrorNoDevice)                                                \
    VALUE(invalid_device, 101, hipErrorInvalidDevice)                                      \
    VALUE(invalid_handle, 400, hipErrorInvalidHandle)                                      \
    VALUE(not_ready, 600, hipErrorNotReady)                                                \
    VALUE(already_registered, 712, hipErrorHostMemoryAlreadyRegistered)                    \
    VALUE(not_registered, 713, hipErrorHostMemoryNotRegistered)                            \
    VALUE(already_peers, 704, hipErrorPeerAccessAlreadyEnabled)                            \
    VALUE(not_supported, 801, hipErrorNotSupported)                                        \
    VALUE(capture_first, 900, hipErrorStreamCaptureUnsupported)                            \
    VALUE(capture_last, 908, hipErrorStreamCaptureWrongThread)                             \
    VALUE(kind[RUNTIME_IN], 1, hipMemcpyHostToDevice)                                      \
    VALUE(kind[RUNTIME_OUT], 2, hipMemcpyDeviceToHost)                                     \
    VALUE(kind[RUNTIME_WITHIN], 3, hipMemcpyDeviceToDevice)                                \
    VALUE(stream_non_blocking, 1, hipStreamNonBlocking)                                    \
    VALUE(event_without_time, 2, hipEventDisableTiming)                                    \
    VALUE(register_portable, 1, hipHostRegisterPortable)                                   \
    VALUE(relaxed, 2, hipStreamCaptureModeRelaxed)

/* MUSA: the errors in driver_types.h as Ollama's port to it carries them
 * (gpu_info_musa.h), the kinds and flags as torch_musa and FlagCX's musa_adaptor.cc use
 * them: with CUDA's names and CUDA's numbers. */
#define CUDALIKE_MUSA(VALUE)                                                               \
    VALUE(invalid_value, 1, musaErrorInvalidValue)                                         \
    VALUE(out_of_memory, 2, musaErrorMemoryAllocation)                                     \
    VALUE(no_device, 100, musaErrorNoDevice)                                               \
    VALUE(invalid_device, 101, musaErrorInvalidDevice)                                     \
    VALUE(invalid_handle, 400, musaErrorInvalidResourceHandle)                             \
    VALUE(not_ready, 600, musaErrorNotReady)                                               \
    VALUE(already_registered, 712, musaErrorHostMemoryAlreadyRegistered)                   \
    VALUE(not_registered, 713, musaErrorHostMemoryNotRegistered)                           \
    VALUE(not_permitted, 800, musaErrorNotPermitted)                                       \
    VALUE(already_peers, 704, musaErrorPeerAccessAlreadyEnabled)                           \
    VALUE(not_supported, 801, musaErrorNotSupported)                                       \
    VALUE(capture_first, 900, musaErrorStreamCaptureUnsupported)                           \
    VALUE(capture_last, 908, musaErrorStreamCaptureWrongThread)                            \
    VALUE(kind[RUNTIME_IN], 1, musaMemcpyHostToDevice)                                     \
    VALUE(kind[RUNTIME_OUT], 2, musaMemcpyDeviceToHost)                                    \
    VALUE(kind[RUNTIME_WITHIN], 3, musaMemcpyDeviceToDevice)                               \
    VALUE(stream_non_blocking, 1, musaStreamNonBlocking)                                   \
    VALUE(event_without_time, 2, musaEventDisableTiming)                                   \
    VALUE(register_portable, 1, musaHostRegisterPortable)                                  \
    VALUE(relaxed, 2, musaStreamCaptureModeRelaxed)

/* MACA: the errors of mcr/maca.h as the Cython file of a port of CuPy repeats them, the
 * kinds in a Python binding of libmcruntime.so, the flags as FlagCX's maca_adaptor.cc
 * and vLLM's port use them. The driver has a code of its own for memory that has run
 * out. */
#define CUDALIKE_MACA(VALUE)                                                               \
    VALUE(invalid_value, 1, mcErrorInvalidValue)                                           \
    VALUE(out_of_memory, 2, mcErrorMemoryAllocation)                                       \
    VALUE(also_out_of_memory, 10007, mcErrorNoMemory)                                      \
    VALUE(no_device, 100, mcErrorNoDevice)                                                 \
    VALUE(invalid_device, 101, mcErrorInvalidDevice)                                       \
    VALUE(invalid_handle, 400, mcErrorInvalidResourceHandle)                               \
    VALUE(not_ready, 600, mcErrorNotReady)                                                 \
    VALUE(already_registered, 712, mcErrorHostMemoryAlreadyRegistered)                     \
    VALUE(not_registered, 713, mcErrorHostMemoryNotRegistered)                             \
    VALUE(not_permitted, 800, mcErrorNotPermitted)                                         \
    VALUE(already_peers, 704, mcErrorPeerAccessAlreadyEnabled)                             \
    VALUE(not_supported, 801, mcErrorNotSupported)                                         \
    VALUE(capture_first, 900, mcErrorStreamCaptureUnsupported)                             \
    VALUE(capture_last, 908, mcErrorStreamCaptureWrongThread)                              \
    VALUE(kind[RUNTIME_IN], 1, mcMemcpyHostToDevice)                                       \
    VALUE(kind[RUNTIME_OUT], 2, mcMemcpyDeviceToHost)                                      \
    VALUE(kind[RUNTIME_WITHIN], 3, mcMemcpyDeviceToDevice)                                 \
    VALUE(stream_non_blocking, 1, mcStreamNonBlocking)                                     \
    VALUE(event_without_time, 2, mcEventDisableTiming)                                     \
    VALUE(register_portable, 1, mcHostRegisterPortable)

/* CoreX: CUDA's own names and numbers, driver_types.h of NVIDIA's toolkit, with which
 * cudalike_check_cuda.c compares them where that is installed. */
#define CUDALIKE_COREX(VALUE)                                                              \
    VALUE(invalid_value, 1, cudaErrorInvalidValue)                                         \
    VALUE(out_of_memory, 2, cudaErrorMemoryAllocation)                                     \
    VALUE(no_device, 100, cudaErrorNoDevice)                                               \
    VALUE(invalid_device, 101, cudaErrorInvalidDevice)                                     \
    VALUE(invalid_handle, 400, cudaErrorInvalidResourceHandle)                             \
    VALUE(not_ready, 600, cudaErrorNotReady)                                               \
    VALUE(already_registered, 712, cudaErrorHostMemoryAlreadyRegistered)                   \
    VALUE(not_registered, 713, cudaErrorHostMemoryNotRegistered)                           \
    VALUE(not_permitted, 800, cudaErrorNotPermitted)                                       \
    VALUE(already_peers, 704, cudaErrorPeerAccessAlreadyEnabled)                           \
    VALUE(not_supported, 801, cudaErrorNotSupported)                                       \
    VALUE(capture_first, 900, cudaErrorStreamCaptureUnsupported)                           \
    VALUE(capture_last, 908, cudaErrorStreamCaptureWrongThread)                            \
    VALUE(kind[RUNTIME_IN], 1, cudaMemcpyHostToDevice)                                     \
    VALUE(kind[RUNTIME_OUT], 2, cudaMemcpyDeviceToHost)                                    \
    VALUE(kind[RUNTIME_WITHIN], 3, cudaMemcpyDeviceToDevice)                               \
    VALUE(stream_non_blocking, 1, cudaStreamNonBlocking)                                   \
    VALUE(event_without_time, 2, cudaEventDisableTiming)                                   \
    VALUE(register_portable, 1, cudaHostRegisterPortable)                                  \
    VALUE(relaxed, 2, cudaStreamCaptureModeRelaxed)

struct cudalike {
    struct runtime runtime;
    const char *prefix; /* of the functions */
    struct cudalike_values is;
    struct cudalike_functions f; /* not called until all that is required was found */
};

#endif
