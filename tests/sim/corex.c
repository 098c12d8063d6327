/* corex.c - the simulated CoreX runtime (Iluvatar): CUDA's own names and numbers,
 * written down from NVIDIA's documentation of the runtime of CUDA 10.2, which CoreX says
 * it is, and the devices' names of DeepSpark's tools. */
#define F(name) cuda##name

#define ERRORS(X)                                     \
    X(cudaSuccess, 0)                                 \
    X(cudaErrorInvalidValue, 1)                       \
    X(cudaErrorMemoryAllocation, 2)                   \
    X(cudaErrorInitializationError, 3)                \
    X(cudaErrorNoDevice, 100)                         \
    X(cudaErrorInvalidDevice, 101)                    \
    X(cudaErrorInvalidResourceHandle, 400)            \
    X(cudaErrorIllegalState, 401)                     \
    X(cudaErrorNotReady, 600)                         \
    X(cudaErrorIllegalAddress, 700)                   \
    X(cudaErrorContextIsDestroyed, 709)               \
    X(cudaErrorPeerAccessUnsupported, 217)            \
    X(cudaErrorPeerAccessAlreadyEnabled, 704)         \
    X(cudaErrorHostMemoryAlreadyRegistered, 712)      \
    X(cudaErrorHostMemoryNotRegistered, 713)          \
    X(cudaErrorNotPermitted, 800)                     \
    X(cudaErrorNotSupported, 801)                     \
    X(cudaErrorStreamCaptureUnsupported, 900)         \
    X(cudaErrorStreamCaptureInvalidated, 901)         \
    X(cudaErrorStreamCaptureMerge, 902)               \
    X(cudaErrorStreamCaptureUnmatched, 903)           \
    X(cudaErrorStreamCaptureUnjoined, 904)            \
    X(cudaErrorStreamCaptureIsolation, 905)           \
    X(cudaErrorStreamCaptureImplicit, 906)            \
    X(cudaErrorCapturedEvent, 907)                    \
    X(cudaErrorStreamCaptureWrongThread, 908)         \
    X(cudaErrorUnknown, 999)

#define CODES                                                                  \
    {                                                                          \
        [SIM_EINVAL] = cudaErrorInvalidValue,                                  \
        [SIM_ENOMEM] = cudaErrorMemoryAllocation,                              \
        [SIM_ENOTINIT] = cudaErrorInitializationError,                         \
        [SIM_ENODEVICE] = cudaErrorNoDevice,                                   \
        [SIM_EBADDEVICE] = cudaErrorInvalidDevice,                             \
        [SIM_EDESTROYED] = cudaErrorContextIsDestroyed,                        \
        [SIM_EHANDLE] = cudaErrorInvalidResourceHandle,                        \
        [SIM_ENOTREADY] = cudaErrorNotReady,                                   \
        [SIM_EILLEGAL] = cudaErrorIllegalAddress,                              \
        [SIM_EPEERLESS] = cudaErrorPeerAccessUnsupported,                      \
        [SIM_EPEERS] = cudaErrorPeerAccessAlreadyEnabled,                      \
        [SIM_EREGISTERED] = cudaErrorHostMemoryAlreadyRegistered,              \
        [SIM_ENOTREGISTERED] = cudaErrorHostMemoryNotRegistered,               \
        [SIM_ENOTPERMITTED] = cudaErrorNotPermitted,                           \
        [SIM_ENOTSUP] = cudaErrorNotSupported,                                 \
        [SIM_ECAPTURING] = cudaErrorStreamCaptureUnsupported,                  \
        [SIM_EINVALIDATED] = cudaErrorStreamCaptureInvalidated,                \
        [SIM_ESTATE] = cudaErrorIllegalState,                                  \
        [SIM_EUNMATCHED] = cudaErrorStreamCaptureUnmatched,                    \
        [SIM_EUNJOINED] = cudaErrorStreamCaptureUnjoined,                      \
        [SIM_EIMPLICIT] = cudaErrorStreamCaptureImplicit,                      \
        [SIM_ECAPTURED] = cudaErrorCapturedEvent,                              \
        [SIM_EMERGE] = cudaErrorStreamCaptureMerge,                            \
        [SIM_EISOLATION] = cudaErrorStreamCaptureIsolation,                    \
        [SIM_ETHREAD] = cudaErrorStreamCaptureWrongThread,                     \
    }
#define NO_MEMORY cudaErrorMemoryAllocation
#define UNKNOWN cudaErrorUnknown

enum {
    cudaMemcpyHostToDevice = 1,
    cudaMemcpyDeviceToHost = 2,
    cudaMemcpyDeviceToDevice = 3,
    cudaMemcpyDefault = 4,
};
#define HOST_TO_DEVICE cudaMemcpyHostToDevice
#define DEVICE_TO_HOST cudaMemcpyDeviceToHost
#define DEVICE_TO_DEVICE cudaMemcpyDeviceToDevice
#define EITHER cudaMemcpyDefault
#define NON_BLOCKING 0x1   /* cudaStreamNonBlocking */
#define BLOCKING_SYNC 0x1  /* cudaEventBlockingSync */
#define WITHOUT_TIMING 0x2 /* cudaEventDisableTiming */
#define PORTABLE 0x1       /* cudaHostRegisterPortable */
#define MAPPED 0x2         /* cudaHostRegisterMapped */

#define PREFIX "SIM_COREX_"
#define MODEL "Iluvatar simulated %d"
#define PROPERTIES 1032
#define CAPTURES

#include "cudalike_table.h"
