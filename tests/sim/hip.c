/* hip.c - the simulated HIP runtime (AMD, Hygon): names and numbers, written down from
 * AMD's documentation of HIP 5 and 6. */
#define F(name) hip##name

#define ERRORS(X)                                    \
    X(hipSuccess, 0)                                 \
    X(hipErrorInvalidValue, 1)                       \
    X(hipErrorOutOfMemory, 2)                        \
    X(hipErrorNotInitialized, 3)                     \
    X(hipErrorNoDevice, 100)                         \
    X(hipErrorInvalidDevice, 101)                    \
    X(hipErrorInvalidHandle, 400)                    \
    X(hipErrorIllegalState, 401)                     \
    X(hipErrorNotReady, 600)                         \
    X(hipErrorIllegalAddress, 700)                   \
    X(hipErrorContextIsDestroyed, 709)               \
    X(hipErrorPeerAccessUnsupported, 217)            \
    X(hipErrorPeerAccessAlreadyEnabled, 704)         \
    X(hipErrorHostMemoryAlreadyRegistered, 712)      \
    X(hipErrorHostMemoryNotRegistered, 713)          \
    X(hipErrorNotSupported, 801)                     \
    X(hipErrorStreamCaptureUnsupported, 900)         \
    X(hipErrorStreamCaptureInvalidated, 901)         \
    X(hipErrorStreamCaptureMerge, 902)               \
    X(hipErrorStreamCaptureUnmatched, 903)           \
    X(hipErrorStreamCaptureUnjoined, 904)            \
    X(hipErrorStreamCaptureIsolation, 905)           \
    X(hipErrorStreamCaptureImplicit, 906)            \
    X(hipErrorCapturedEvent, 907)                    \
    X(hipErrorStreamCaptureWrongThread, 908)         \
    X(hipErrorUnknown, 999)

#define CODES                                                                  \
    {                                                                          \
        [SIM_EINVAL] = hipErrorInvalidValue,                                   \
        [SIM_ENOMEM] = hipErrorOutOfMemory,                                    \
        [SIM_ENOTINIT] = hipErrorNotInitialized,                               \
        [SIM_ENODEVICE] = hipErrorNoDevice,                                    \
        [SIM_EBADDEVICE] = hipErrorInvalidDevice,                              \
        [SIM_EDESTROYED] = hipErrorContextIsDestroyed,                         \
        [SIM_EHANDLE] = hipErrorInvalidHandle,                                 \
        [SIM_ENOTREADY] = hipErrorNotReady,                                    \
        [SIM_EILLEGAL] = hipErrorIllegalAddress,                               \
        [SIM_EPEERLESS] = hipErrorPeerAccessUnsupported,                       \
        [SIM_EPEERS] = hipErrorPeerAccessAlreadyEnabled,                       \
        [SIM_EREGISTERED] = hipErrorHostMemoryAlreadyRegistered,               \
        [SIM_ENOTREGISTERED] = hipErrorHostMemoryNotRegistered,                \
        [SIM_ENOTPERMITTED] = hipErrorNotSupported,                            \
        [SIM_ENOTSUP] = hipErrorNotSupported,                                  \
        [SIM_ECAPTURING] = hipErrorStreamCaptureUnsupported,                   \
        [SIM_EINVALIDATED] = hipErrorStreamCaptureInvalidated,                 \
        [SIM_ESTATE] = hipErrorIllegalState,                                   \
        [SIM_EUNMATCHED] = hipErrorStreamCaptureUnmatched,                     \
        [SIM_EUNJOINED] = hipErrorStreamCaptureUnjoined,                       \
        [SIM_EIMPLICIT] = hipErrorStreamCaptureImplicit,                       \
        [SIM_ECAPTURED] = hipErrorCapturedEvent,                               \
        [SIM_EMERGE] = hipErrorStreamCaptureMerge,                             \
        [SIM_EISOLATION] = hipErrorStreamCaptureIsolation,                     \
        [SIM_ETHREAD] = hipErrorStreamCaptureWrongThread,                      \
    }
#define NO_MEMORY hipErrorOutOfMemory
#define UNKNOWN hipErrorUnknown

enum {
    hipMemcpyHostToDevice = 1,
    hipMemcpyDeviceToHost = 2,
    hipMemcpyDeviceToDevice = 3,
    hipMemcpyDefault = 4,
};
#define HOST_TO_DEVICE hipMemcpyHostToDevice
#define DEVICE_TO_HOST hipMemcpyDeviceToHost
#define DEVICE_TO_DEVICE hipMemcpyDeviceToDevice
#define EITHER hipMemcpyDefault
#define NON_BLOCKING 0x1   /* hipStreamNonBlocking */
#define BLOCKING_SYNC 0x1  /* hipEventBlockingSync */
#define WITHOUT_TIMING 0x2 /* hipEventDisableTiming */
#define PORTABLE 0x1       /* hipHostRegisterPortable */
#define MAPPED 0x2         /* hipHostRegisterMapped */

#define PREFIX "SIM_HIP_"
#define MODEL "Simulated AMD accelerator %d"
#define PROPERTIES 1472
#define CAPTURES

#include "cudalike_table.h"
