/* musa.c - the simulated MUSA runtime (Moore Threads): names and numbers, written down
 * from the enumerations of its driver_types.h that Ollama's port to it carries, and from
 * the calls of torch_musa. */
#define F(name) musa##name

#define ERRORS(X)                                     \
    X(musaSuccess, 0)                                 \
    X(musaErrorInvalidValue, 1)                       \
    X(musaErrorMemoryAllocation, 2)                   \
    X(musaErrorInitializationError, 3)                \
    X(musaErrorNoDevice, 100)                         \
    X(musaErrorInvalidDevice, 101)                    \
    X(musaErrorInvalidResourceHandle, 400)            \
    X(musaErrorIllegalState, 401)                     \
    X(musaErrorNotReady, 600)                         \
    X(musaErrorIllegalAddress, 700)                   \
    X(musaErrorContextIsDestroyed, 709)               \
    X(musaErrorPeerAccessUnsupported, 217)            \
    X(musaErrorPeerAccessAlreadyEnabled, 704)         \
    X(musaErrorHostMemoryAlreadyRegistered, 712)      \
    X(musaErrorHostMemoryNotRegistered, 713)          \
    X(musaErrorNotPermitted, 800)                     \
    X(musaErrorNotSupported, 801)                     \
    X(musaErrorStreamCaptureUnsupported, 900)         \
    X(musaErrorStreamCaptureInvalidated, 901)         \
    X(musaErrorStreamCaptureMerge, 902)               \
    X(musaErrorStreamCaptureUnmatched, 903)           \
    X(musaErrorStreamCaptureUnjoined, 904)            \
    X(musaErrorStreamCaptureIsolation, 905)           \
    X(musaErrorStreamCaptureImplicit, 906)            \
    X(musaErrorCapturedEvent, 907)                    \
    X(musaErrorStreamCaptureWrongThread, 908)         \
    X(musaErrorUnknown, 999)

#define CODES                                                                  \
    {                                                                          \
        [SIM_EINVAL] = musaErrorInvalidValue,                                  \
        [SIM_ENOMEM] = musaErrorMemoryAllocation,                              \
        [SIM_ENOTINIT] = musaErrorInitializationError,                         \
        [SIM_ENODEVICE] = musaErrorNoDevice,                                   \
        [SIM_EBADDEVICE] = musaErrorInvalidDevice,                             \
        [SIM_EDESTROYED] = musaErrorContextIsDestroyed,                        \
        [SIM_EHANDLE] = musaErrorInvalidResourceHandle,                        \
        [SIM_ENOTREADY] = musaErrorNotReady,                                   \
        [SIM_EILLEGAL] = musaErrorIllegalAddress,                              \
        [SIM_EPEERLESS] = musaErrorPeerAccessUnsupported,                      \
        [SIM_EPEERS] = musaErrorPeerAccessAlreadyEnabled,                      \
        [SIM_EREGISTERED] = musaErrorHostMemoryAlreadyRegistered,              \
        [SIM_ENOTREGISTERED] = musaErrorHostMemoryNotRegistered,               \
        [SIM_ENOTPERMITTED] = musaErrorNotPermitted,                           \
        [SIM_ENOTSUP] = musaErrorNotSupported,                                 \
        [SIM_ECAPTURING] = musaErrorStreamCaptureUnsupported,                  \
        [SIM_EINVALIDATED] = musaErrorStreamCaptureInvalidated,                \
        [SIM_ESTATE] = musaErrorIllegalState,                                  \
        [SIM_EUNMATCHED] = musaErrorStreamCaptureUnmatched,                    \
        [SIM_EUNJOINED] = musaErrorStreamCaptureUnjoined,                      \
        [SIM_EIMPLICIT] = musaErrorStreamCaptureImplicit,                      \
        [SIM_ECAPTURED] = musaErrorCapturedEvent,                              \
        [SIM_EMERGE] = musaErrorStreamCaptureMerge,                            \
        [SIM_EISOLATION] = musaErrorStreamCaptureIsolation,                    \
        [SIM_ETHREAD] = musaErrorStreamCaptureWrongThread,                     \
    }
#define NO_MEMORY musaErrorMemoryAllocation
#define UNKNOWN musaErrorUnknown

enum {
    musaMemcpyHostToDevice = 1,
    musaMemcpyDeviceToHost = 2,
    musaMemcpyDeviceToDevice = 3,
    musaMemcpyDefault = 4,
};
#define HOST_TO_DEVICE musaMemcpyHostToDevice
#define DEVICE_TO_HOST musaMemcpyDeviceToHost
#define DEVICE_TO_DEVICE musaMemcpyDeviceToDevice
#define EITHER musaMemcpyDefault
#define NON_BLOCKING 0x1   /* musaStreamNonBlocking */
#define BLOCKING_SYNC 0x1  /* musaEventBlockingSync */
#define WITHOUT_TIMING 0x2 /* musaEventDisableTiming */
#define PORTABLE 0x1       /* musaHostRegisterPortable */
#define MAPPED 0x2         /* musaHostRegisterMapped */

#define PREFIX "SIM_MUSA_"
#define MODEL "Simulated MTT %d"
#define PROPERTIES 1032
#define CAPTURES

#include "cudalike_table.h"
