/* cuda_check.c - compares our declarations of the CUDA driver with NVIDIA's own.
 *
 * Done by the compiler, where the toolkit's cuda.h is installed; no code. */
#if __has_include(<cuda.h>)

#include <cuda.h>

#include "cuda_driver.h"

#define SAME_SIZE(ours, theirs) \
    _Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs), #ours)
#define SAME_PLACE(ours, member, theirs, their_member)                                     \
    _Static_assert(offsetof(ours, member) == offsetof(theirs, their_member) &&             \
                   sizeof(((ours *)0)->member) == sizeof(((theirs *)0)->their_member),     \
                   #ours "." #member)
#define SAME_VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)

SAME_SIZE(cuda_result, CUresult);
SAME_SIZE(cuda_attribute, CUdevice_attribute);
SAME_SIZE(cuda_capture, CUstreamCaptureStatus);
SAME_SIZE(cuda_mode, CUstreamCaptureMode);
SAME_SIZE(cuda_granularity, CUmemAllocationGranularity_flags);
SAME_SIZE(cuda_device, CUdevice);
SAME_SIZE(cuda_address, CUdeviceptr);
SAME_SIZE(cuda_memory, CUmemGenericAllocationHandle);
SAME_SIZE(cuda_location, CUmemLocation);
SAME_SIZE(cuda_property, CUmemAllocationProp);
SAME_SIZE(cuda_access, CUmemAccessDesc);

SAME_PLACE(cuda_location, type, CUmemLocation, type);
SAME_PLACE(cuda_location, id, CUmemLocation, id);
SAME_PLACE(cuda_property, type, CUmemAllocationProp, type);
SAME_PLACE(cuda_property, handle_types, CUmemAllocationProp, requestedHandleTypes);
SAME_PLACE(cuda_property, location, CUmemAllocationProp, location);
SAME_PLACE(cuda_property, windows, CUmemAllocationProp, win32HandleMetaData);
SAME_PLACE(cuda_property, flags, CUmemAllocationProp, allocFlags);
SAME_PLACE(cuda_property, flags.rdma, CUmemAllocationProp, allocFlags.gpuDirectRDMACapable);
SAME_PLACE(cuda_access, location, CUmemAccessDesc, location);
SAME_PLACE(cuda_access, flags, CUmemAccessDesc, flags);

SAME_VALUE(CUDA_OK, CUDA_SUCCESS);
SAME_VALUE(CUDA_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE);
SAME_VALUE(CUDA_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME_VALUE(CUDA_NOT_INITIALIZED, CUDA_ERROR_NOT_INITIALIZED);
SAME_VALUE(CUDA_NO_DEVICE, CUDA_ERROR_NO_DEVICE);
SAME_VALUE(CUDA_INVALID_DEVICE, CUDA_ERROR_INVALID_DEVICE);
SAME_VALUE(CUDA_INVALID_CONTEXT, CUDA_ERROR_INVALID_CONTEXT);
SAME_VALUE(CUDA_UNSUPPORTED_LIMIT, CUDA_ERROR_UNSUPPORTED_LIMIT);
SAME_VALUE(CUDA_OPERATING_SYSTEM, CUDA_ERROR_OPERATING_SYSTEM);
SAME_VALUE(CUDA_INVALID_HANDLE, CUDA_ERROR_INVALID_HANDLE);
SAME_VALUE(CUDA_NOT_READY, CUDA_ERROR_NOT_READY);
SAME_VALUE(CUDA_ALREADY_REGISTERED, CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
SAME_VALUE(CUDA_NOT_REGISTERED, CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
SAME_VALUE(CUDA_NOT_PERMITTED, CUDA_ERROR_NOT_PERMITTED);
SAME_VALUE(CUDA_NOT_SUPPORTED, CUDA_ERROR_NOT_SUPPORTED);
SAME_VALUE(CUDA_CAPTURE_FIRST, CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
SAME_VALUE(CUDA_CAPTURE_LAST, CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
SAME_VALUE(CUDA_HAS_VIRTUAL_MEMORY, CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
SAME_VALUE(CUDA_HAS_RDMA_WITH_THAT, CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED);
SAME_VALUE(CUDA_PINNED, CU_MEM_ALLOCATION_TYPE_PINNED);
SAME_VALUE(CUDA_ON_DEVICE, CU_MEM_LOCATION_TYPE_DEVICE);
SAME_VALUE(CUDA_READ_WRITE, CU_MEM_ACCESS_FLAGS_PROT_READWRITE);
SAME_VALUE(CUDA_LEAST_GRANULARITY, CU_MEM_ALLOC_GRANULARITY_MINIMUM);
SAME_VALUE(CUDA_REGISTER_PORTABLE, CU_MEMHOSTREGISTER_PORTABLE);
SAME_VALUE(CUDA_STREAM_NON_BLOCKING, CU_STREAM_NON_BLOCKING);
SAME_VALUE(CUDA_EVENT_WITHOUT_TIME, CU_EVENT_DISABLE_TIMING);
SAME_VALUE(CUDA_NOT_CAPTURED, CU_STREAM_CAPTURE_STATUS_NONE);
SAME_VALUE(CUDA_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
#if CUDA_VERSION >= 12020
SAME_VALUE(CUDA_NODE, CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID);
SAME_VALUE(CUDA_ON_HOST, CU_MEM_LOCATION_TYPE_HOST);
SAME_VALUE(CUDA_ON_NODE, CU_MEM_LOCATION_TYPE_HOST_NUMA);
#endif
#if CUDA_VERSION >= 13000
SAME_VALUE(CUDA_HAS_NODE_MEMORY_WITH_THAT, CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
SAME_VALUE(CUDA_HAS_HOST_MEMORY_WITH_THAT, CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED);
#endif

/* From here on our parameters read as their types. */
#define cuda_result CUresult
#define cuda_attribute CUdevice_attribute
#define cuda_capture CUstreamCaptureStatus
#define cuda_mode CUstreamCaptureMode
#define cuda_granularity CUmemAllocationGranularity_flags
#define cuda_device CUdevice
#define cuda_address CUdeviceptr
#define cuda_memory CUmemGenericAllocationHandle
#define cuda_context CUcontext
#define cuda_stream CUstream
#define cuda_event CUevent
#define cuda_host_function CUhostFn
#define cuda_property CUmemAllocationProp
#define cuda_access CUmemAccessDesc
#define SAME_FUNCTION(name, symbol, parameters) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(symbol), CUresult parameters), #symbol);
CUDA_FUNCTIONS(SAME_FUNCTION, SAME_FUNCTION)

#else
typedef int cuda_check_has_nothing_to_compare_with;
#endif
