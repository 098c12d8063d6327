/* cudalike_check_hip.c - compares our declarations of runtimes in CUDA's shape with
 * AMD's header.
 *
 * Done by the compiler, where <hip/hip_runtime_api.h> is installed; no code. */
#if __has_include(<hip/hip_runtime_api.h>)

#define __HIP_PLATFORM_AMD__
#include <hip/hip_runtime_api.h>

#include "cudalike.h"

#define SAME_SIZE(ours, theirs) \
    _Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs), #ours);
SAME_SIZE(cudalike_code, hipError_t)
SAME_SIZE(cudalike_kind, hipMemcpyKind)
SAME_SIZE(cudalike_status, hipStreamCaptureStatus)
SAME_SIZE(cudalike_mode, hipStreamCaptureMode)
SAME_SIZE(cudalike_stream, hipStream_t)
SAME_SIZE(cudalike_event, hipEvent_t)

#define SAME_VALUE(member, number, name) _Static_assert((int)(number) == (int)(name), #name);
CUDALIKE_HIP(SAME_VALUE)
_Static_assert(hipSuccess == 0 && hipStreamCaptureStatusNone == 0, "what is 0");
_Static_assert(offsetof(hipDeviceProp_t, name) == 0 && sizeof(hipDeviceProp_t) < 16384, "hipDeviceProp_t");

/* From here on our parameters read as their types. */
#define cudalike_code hipError_t
#define cudalike_kind hipMemcpyKind
#define cudalike_status hipStreamCaptureStatus
#define cudalike_mode hipStreamCaptureMode
#define cudalike_stream hipStream_t
#define cudalike_event hipEvent_t
#define cudalike_properties hipDeviceProp_t *
#define SAME_FUNCTION(member, name, result, parameters) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(hip##name), result parameters), #name);
CUDALIKE_FUNCTIONS(SAME_FUNCTION, SAME_FUNCTION)

#else
typedef int cudalike_check_hip_has_nothing_to_compare_with;
#endif
