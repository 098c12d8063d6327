/* cuda_check.c - compares our declarations of the CUDA driver's entries with NVIDIA's own.
 *
 * Done by the compiler, where the toolkit's cuda.h of version 13 is installed; no code. */
#if __has_include(<cuda.h>)
#define __CUDA_API_VERSION_INTERNAL /* all forms of all functions, under the names they are exported by */
#include <cuda.h>
#endif

#if defined(CUDA_VERSION) && CUDA_VERSION >= 13000

#define CUDA_ABI_TYPES_ONLY
#include "cuda_abi.h"

_Static_assert(offsetof(cuda_launch_config, stream) == offsetof(CUlaunchConfig, hStream), "CUlaunchConfig");

#define SAME_VALUE(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #ours)
SAME_VALUE(CUDA_OK, CUDA_SUCCESS);
SAME_VALUE(CUDA_INVALID_VALUE, CUDA_ERROR_INVALID_VALUE);
SAME_VALUE(CUDA_OUT_OF_MEMORY, CUDA_ERROR_OUT_OF_MEMORY);
SAME_VALUE(CUDA_NOT_INITIALIZED, CUDA_ERROR_NOT_INITIALIZED);
SAME_VALUE(CUDA_PEERLESS, CUDA_ERROR_PEER_ACCESS_UNSUPPORTED);
SAME_VALUE(CUDA_NOT_FOUND, CUDA_ERROR_NOT_FOUND);
SAME_VALUE(CUDA_POINTER_CONTEXT, CU_POINTER_ATTRIBUTE_CONTEXT);
SAME_VALUE(CUDA_POINTER_MEMORY_TYPE, CU_POINTER_ATTRIBUTE_MEMORY_TYPE);
SAME_VALUE(CUDA_POINTER_ORDINAL, CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL);
SAME_VALUE(CUDA_POINTER_RANGE_START, CU_POINTER_ATTRIBUTE_RANGE_START_ADDR);
SAME_VALUE(CUDA_POINTER_RANGE_SIZE, CU_POINTER_ATTRIBUTE_RANGE_SIZE);
SAME_VALUE(CUDA_MEMORY_OF_DEVICE, CU_MEMORYTYPE_DEVICE);
SAME_VALUE(CUDA_EVENT_WITHOUT_TIME, CU_EVENT_DISABLE_TIMING);
SAME_VALUE(CUDA_RELAXED, CU_STREAM_CAPTURE_MODE_RELAXED);
SAME_VALUE(CUDA_LOOKUP_PER_THREAD, CU_GET_PROC_ADDRESS_PER_THREAD_DEFAULT_STREAM);

/* From here on our parameters read as their types. */
#define cuda_result CUresult
#define cuda_capture CUstreamCaptureStatus
#define cuda_mode CUstreamCaptureMode
#define cuda_pointer_attribute CUpointer_attribute
#define cuda_status CUdriverProcAddressQueryResult
#define cuda_device CUdevice
#define cuda_address CUdeviceptr
#define cuda_context CUcontext
#define cuda_stream CUstream
#define cuda_event CUevent
#define cuda_pool CUmemoryPool
#define cuda_function CUfunction
#define cuda_kernel CUkernel
#define cuda_module CUmodule
#define cuda_library CUlibrary
#define cuda_array CUarray
#define cuda_graph CUgraph
#define cuda_node CUgraphNode
#define cuda_graph_exec CUgraphExec
#define cuda_ipc_handle CUipcMemHandle
#define cuda_edge CUgraphEdgeData
#define cuda_copy2d CUDA_MEMCPY2D
#define cuda_copy3d CUDA_MEMCPY3D
#define cuda_copy3d_peer CUDA_MEMCPY3D_PEER
#define cuda_copy3d_op CUDA_MEMCPY3D_BATCH_OP
#define cuda_copy_attributes CUmemcpyAttributes
#define cuda_decompress CUmemDecompressParams
#define cuda_launch_params CUDA_LAUNCH_PARAMS
#define cuda_memory_op CUstreamBatchMemOpParams
#define cuda_launch_config CUlaunchConfig

#define uint32_t cuuint32_t
#define uint64_t cuuint64_t

#define SAME(symbol, parameters) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(symbol), CUresult parameters), #symbol);
#define OWN(base, since, symbol, parameters) SAME(symbol, parameters)
#define NEED(symbol, parameters) SAME(symbol, parameters)
#define PLAIN(base, since, symbol, where, parameters, arguments) SAME(symbol, parameters)
#define BOTH(base, since, symbol, since2, symbol2, parameters, arguments) \
    SAME(symbol, parameters)                                              \
    SAME(symbol2, parameters)
#include "cuda_entries.def"

#else
typedef int cuda_check_has_nothing_to_compare_with;
#endif
