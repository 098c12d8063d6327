/* maca.c - the simulated MACA runtime (MetaX): names and numbers, written down from the
 * errors of mcr/maca.h as a port of CuPy to it repeats them, a Python binding of
 * libmcruntime.so, and the calls of FlagCX. Nothing is known of a function that tells
 * whether a stream is being captured. */
#define F(name) mc##name

#define ERRORS(X)                                   \
    X(mcSuccess, 0)                                 \
    X(mcErrorInvalidValue, 1)                       \
    X(mcErrorMemoryAllocation, 2)                   \
    X(mcErrorInitializationError, 3)                \
    X(mcErrorNoDevice, 100)                         \
    X(mcErrorInvalidDevice, 101)                    \
    X(mcErrorInvalidResourceHandle, 400)            \
    X(mcErrorIllegalState, 401)                     \
    X(mcErrorNotReady, 600)                         \
    X(mcErrorIllegalAddress, 700)                   \
    X(mcErrorContextIsDestroyed, 709)               \
    X(mcErrorPeerAccessUnsupported, 217)            \
    X(mcErrorPeerAccessAlreadyEnabled, 704)         \
    X(mcErrorHostMemoryAlreadyRegistered, 712)      \
    X(mcErrorHostMemoryNotRegistered, 713)          \
    X(mcErrorNotPermitted, 800)                     \
    X(mcErrorNotSupported, 801)                     \
    X(mcErrorStreamCaptureUnsupported, 900)         \
    X(mcErrorStreamCaptureInvalidated, 901)         \
    X(mcErrorStreamCaptureMerge, 902)               \
    X(mcErrorStreamCaptureUnmatched, 903)           \
    X(mcErrorStreamCaptureUnjoined, 904)            \
    X(mcErrorStreamCaptureIsolation, 905)           \
    X(mcErrorStreamCaptureImplicit, 906)            \
    X(mcErrorCapturedEvent, 907)                    \
    X(mcErrorStreamCaptureWrongThread, 908)         \
    X(mcErrorUnknown, 999)                          \
    X(mcErrorNoMemory, 10007)

#define CODES                                                                  \
    {                                                                          \
        [SIM_EINVAL] = mcErrorInvalidValue,                                    \
        [SIM_ENOMEM] = mcErrorMemoryAllocation,                                \
        [SIM_ENOTINIT] = mcErrorInitializationError,                           \
        [SIM_ENODEVICE] = mcErrorNoDevice,                                     \
        [SIM_EBADDEVICE] = mcErrorInvalidDevice,                               \
        [SIM_EDESTROYED] = mcErrorContextIsDestroyed,                          \
        [SIM_EHANDLE] = mcErrorInvalidResourceHandle,                          \
        [SIM_ENOTREADY] = mcErrorNotReady,                                     \
        [SIM_EILLEGAL] = mcErrorIllegalAddress,                                \
        [SIM_EPEERLESS] = mcErrorPeerAccessUnsupported,                        \
        [SIM_EPEERS] = mcErrorPeerAccessAlreadyEnabled,                        \
        [SIM_EREGISTERED] = mcErrorHostMemoryAlreadyRegistered,                \
        [SIM_ENOTREGISTERED] = mcErrorHostMemoryNotRegistered,                 \
        [SIM_ENOTPERMITTED] = mcErrorNotPermitted,                             \
        [SIM_ENOTSUP] = mcErrorNotSupported,                                   \
        [SIM_ECAPTURING] = mcErrorStreamCaptureUnsupported,                    \
        [SIM_EINVALIDATED] = mcErrorStreamCaptureInvalidated,                  \
        [SIM_ESTATE] = mcErrorIllegalState,                                    \
        [SIM_EUNMATCHED] = mcErrorStreamCaptureUnmatched,                      \
        [SIM_EUNJOINED] = mcErrorStreamCaptureUnjoined,                        \
        [SIM_EIMPLICIT] = mcErrorStreamCaptureImplicit,                        \
        [SIM_ECAPTURED] = mcErrorCapturedEvent,                                \
        [SIM_EMERGE] = mcErrorStreamCaptureMerge,                              \
        [SIM_EISOLATION] = mcErrorStreamCaptureIsolation,                      \
        [SIM_ETHREAD] = mcErrorStreamCaptureWrongThread,                       \
    }
#define NO_MEMORY mcErrorMemoryAllocation
#define UNKNOWN mcErrorUnknown

enum {
    mcMemcpyHostToDevice = 1,
    mcMemcpyDeviceToHost = 2,
    mcMemcpyDeviceToDevice = 3,
    mcMemcpyDefault = 4,
};
#define HOST_TO_DEVICE mcMemcpyHostToDevice
#define DEVICE_TO_HOST mcMemcpyDeviceToHost
#define DEVICE_TO_DEVICE mcMemcpyDeviceToDevice
#define EITHER mcMemcpyDefault
#define NON_BLOCKING 0x1   /* mcStreamNonBlocking */
#define BLOCKING_SYNC 0x1  /* mcEventBlockingSync */
#define WITHOUT_TIMING 0x2 /* mcEventDisableTiming */
#define PORTABLE 0x1       /* mcHostRegisterPortable */
#define MAPPED 0x2         /* mcHostRegisterMapped */

#define PREFIX "SIM_MACA_"
#define MODEL "Simulated MXC %d"
#define PROPERTIES 1032

#include "cudalike_table.h"
