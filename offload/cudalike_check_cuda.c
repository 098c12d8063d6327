/* cudalike_check_cuda.c - compares our declarations of runtimes in CUDA's shape with
 * NVIDIA's header, whose names CoreX has.
 *
 * Done by the compiler, where <cuda_runtime_api.h> is installed; no code. */
#if __has_include(<cuda_runtime_api.h>)

#include <cuda_runtime_api.h>

#include "cudalike.h"

#define SAME_SIZE(ours, theirs) \
    _Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs), #ours);
SAME_SIZE(cudalike_code, cudaError_t)
SAME_SIZE(cudalike_kind, enum cudaMemcpyKind)
SAME_SIZE(cudalike_status, enum cudaStreamCaptureStatus)
SAME_SIZE(cudalike_mode, enum cudaStreamCaptureMode)
SAME_SIZE(cudalike_stream, cudaStream_t)
SAME_SIZE(cudalike_event, cudaEvent_t)

#define SAME_VALUE(member, number, name) _Static_assert((int)(number) == (int)(name), #name);
CUDALIKE_COREX(SAME_VALUE)
_Static_assert(cudaSuccess == 0 && cudaStreamCaptureStatusNone == 0, "what is 0");
_Static_assert(offsetof(struct cudaDeviceProp, name) == 0 && sizeof(struct cudaDeviceProp) < 16384, "struct cudaDeviceProp");

/* From here on our parameters read as their types. */
#define cudalike_code cudaError_t
#define cudalike_kind enum cudaMemcpyKind
#define cudalike_status enum cudaStreamCaptureStatus
#define cudalike_mode enum cudaStreamCaptureMode
#define cudalike_stream cudaStream_t
#define cudalike_event cudaEvent_t
#define cudalike_properties struct cudaDeviceProp *
#define SAME_FUNCTION(member, name, result, parameters) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(cuda##name), result parameters), #name);
CUDALIKE_FUNCTIONS(SAME_FUNCTION, SAME_FUNCTION)

#else
typedef int cudalike_check_cuda_has_nothing_to_compare_with;
#endif
