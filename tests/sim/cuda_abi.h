/* cuda_abi.h - the part of the CUDA driver's interface that is simulated: types,
 * constants and functions, written down from NVIDIA's documentation of version
 * 13.0. A file that has included <cuda.h> before gets the functions only, which
 * the compiler then compares: see cuda_check.c. */
#ifndef TERRACE_TESTS_SIM_CUDA_ABI_H
#define TERRACE_TESTS_SIM_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

/* NAME, value. */
#define SIM_CUDA_CONSTANTS(X)                           \
    X(CUDA_SUCCESS, 0)                                  \
    X(CUDA_ERROR_INVALID_VALUE, 1)                      \
    X(CUDA_ERROR_OUT_OF_MEMORY, 2)                      \
    X(CUDA_ERROR_NOT_INITIALIZED, 3)                    \
    X(CUDA_ERROR_DEINITIALIZED, 4)                      \
    X(CUDA_ERROR_DEVICE_UNAVAILABLE, 46)                \
    X(CUDA_ERROR_NO_DEVICE, 100)                        \
    X(CUDA_ERROR_INVALID_DEVICE, 101)                   \
    X(CUDA_ERROR_INVALID_CONTEXT, 201)                  \
    X(CUDA_ERROR_ECC_UNCORRECTABLE, 214)                \
    X(CUDA_ERROR_PEER_ACCESS_UNSUPPORTED, 217)          \
    X(CUDA_ERROR_OPERATING_SYSTEM, 304)                 \
    X(CUDA_ERROR_INVALID_HANDLE, 400)                   \
    X(CUDA_ERROR_ILLEGAL_STATE, 401)                    \
    X(CUDA_ERROR_NOT_FOUND, 500)                        \
    X(CUDA_ERROR_NOT_READY, 600)                        \
    X(CUDA_ERROR_ILLEGAL_ADDRESS, 700)                  \
    X(CUDA_ERROR_LAUNCH_TIMEOUT, 702)                   \
    X(CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED, 704)      \
    X(CUDA_ERROR_PEER_ACCESS_NOT_ENABLED, 705)          \
    X(CUDA_ERROR_PRIMARY_CONTEXT_ACTIVE, 708)           \
    X(CUDA_ERROR_CONTEXT_IS_DESTROYED, 709)             \
    X(CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED, 712)   \
    X(CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED, 713)       \
    X(CUDA_ERROR_HARDWARE_STACK_ERROR, 714)             \
    X(CUDA_ERROR_LAUNCH_FAILED, 719)                    \
    X(CUDA_ERROR_NOT_PERMITTED, 800)                    \
    X(CUDA_ERROR_NOT_SUPPORTED, 801)                    \
    X(CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED, 900)       \
    X(CUDA_ERROR_STREAM_CAPTURE_INVALIDATED, 901)       \
    X(CUDA_ERROR_STREAM_CAPTURE_MERGE, 902)             \
    X(CUDA_ERROR_STREAM_CAPTURE_UNMATCHED, 903)         \
    X(CUDA_ERROR_STREAM_CAPTURE_UNJOINED, 904)          \
    X(CUDA_ERROR_STREAM_CAPTURE_ISOLATION, 905)         \
    X(CUDA_ERROR_STREAM_CAPTURE_IMPLICIT, 906)          \
    X(CUDA_ERROR_CAPTURED_EVENT, 907)                   \
    X(CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD, 908)      \
    X(CUDA_ERROR_UNKNOWN, 999)                          \
    X(CU_DEVICE_ATTRIBUTE_WARP_SIZE, 10)                \
    X(CU_DEVICE_ATTRIBUTE_GPU_OVERLAP, 15)              \
    X(CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, 16)     \
    X(CU_DEVICE_ATTRIBUTE_INTEGRATED, 18)               \
    X(CU_DEVICE_ATTRIBUTE_CAN_MAP_HOST_MEMORY, 19)      \
    X(CU_DEVICE_ATTRIBUTE_COMPUTE_MODE, 20)             \
    X(CU_DEVICE_ATTRIBUTE_PCI_BUS_ID, 33)               \
    X(CU_DEVICE_ATTRIBUTE_PCI_DEVICE_ID, 34)            \
    X(CU_DEVICE_ATTRIBUTE_ASYNC_ENGINE_COUNT, 40)       \
    X(CU_DEVICE_ATTRIBUTE_UNIFIED_ADDRESSING, 41)       \
    X(CU_DEVICE_ATTRIBUTE_PCI_DOMAIN_ID, 50)            \
    X(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, 75) \
    X(CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, 76) \
    X(CU_DEVICE_ATTRIBUTE_STREAM_PRIORITIES_SUPPORTED, 78)            \
    X(CU_DEVICE_ATTRIBUTE_MANAGED_MEMORY, 83)                         \
    X(CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS, 88)                 \
    X(CU_DEVICE_ATTRIBUTE_CAN_USE_HOST_POINTER_FOR_REGISTERED_MEM, 91) \
    X(CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_MEM_OPS_V1, 92)              \
    X(CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS_V1, 93)       \
    X(CU_DEVICE_ATTRIBUTE_CAN_FLUSH_REMOTE_WRITES, 98)                \
    X(CU_DEVICE_ATTRIBUTE_HOST_REGISTER_SUPPORTED, 99)                \
    X(CU_DEVICE_ATTRIBUTE_PAGEABLE_MEMORY_ACCESS_USES_HOST_PAGE_TABLES, 100) \
    X(CU_DEVICE_ATTRIBUTE_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 102)   \
    X(CU_DEVICE_ATTRIBUTE_GPU_DIRECT_RDMA_WITH_CUDA_VMM_SUPPORTED, 110) \
    X(CU_DEVICE_ATTRIBUTE_READ_ONLY_HOST_REGISTER_SUPPORTED, 113)     \
    X(CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED, 115)                \
    X(CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, 122)         \
    X(CU_DEVICE_ATTRIBUTE_CAN_USE_STREAM_WAIT_VALUE_NOR, 123)         \
    X(CU_DEVICE_ATTRIBUTE_HOST_NUMA_ID, 134)                          \
    X(CU_DEVICE_ATTRIBUTE_HOST_NUMA_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 141) \
    X(CU_DEVICE_ATTRIBUTE_HOST_VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED, 145) \
    X(CU_STREAM_DEFAULT, 0)                             \
    X(CU_STREAM_NON_BLOCKING, 1)                        \
    X(CU_STREAM_WAIT_VALUE_GEQ, 0)                      \
    X(CU_STREAM_WAIT_VALUE_EQ, 1)                       \
    X(CU_STREAM_WAIT_VALUE_AND, 2)                      \
    X(CU_STREAM_WAIT_VALUE_NOR, 3)                      \
    X(CU_STREAM_WAIT_VALUE_FLUSH, 1 << 30)              \
    X(CU_STREAM_WRITE_VALUE_DEFAULT, 0)                 \
    X(CU_STREAM_WRITE_VALUE_NO_MEMORY_BARRIER, 1)       \
    X(CU_STREAM_CAPTURE_MODE_GLOBAL, 0)                 \
    X(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL, 1)           \
    X(CU_STREAM_CAPTURE_MODE_RELAXED, 2)                \
    X(CU_STREAM_CAPTURE_STATUS_NONE, 0)                 \
    X(CU_STREAM_CAPTURE_STATUS_ACTIVE, 1)               \
    X(CU_STREAM_CAPTURE_STATUS_INVALIDATED, 2)          \
    X(CU_EVENT_DEFAULT, 0)                              \
    X(CU_EVENT_BLOCKING_SYNC, 1)                        \
    X(CU_EVENT_DISABLE_TIMING, 2)                       \
    X(CU_EVENT_INTERPROCESS, 4)                         \
    X(CU_MEM_LOCATION_TYPE_DEVICE, 1)                   \
    X(CU_MEM_LOCATION_TYPE_HOST, 2)                     \
    X(CU_MEM_LOCATION_TYPE_HOST_NUMA, 3)                \
    X(CU_MEM_LOCATION_TYPE_HOST_NUMA_CURRENT, 4)        \
    X(CU_MEM_ALLOCATION_TYPE_PINNED, 1)                 \
    X(CU_MEM_HANDLE_TYPE_NONE, 0)                       \
    X(CU_MEM_ACCESS_FLAGS_PROT_NONE, 0)                 \
    X(CU_MEM_ACCESS_FLAGS_PROT_READ, 1)                 \
    X(CU_MEM_ACCESS_FLAGS_PROT_READWRITE, 3)            \
    X(CU_MEM_ALLOC_GRANULARITY_MINIMUM, 0)              \
    X(CU_MEM_ALLOC_GRANULARITY_RECOMMENDED, 1)          \
    X(CU_POINTER_ATTRIBUTE_CONTEXT, 1)                  \
    X(CU_POINTER_ATTRIBUTE_MEMORY_TYPE, 2)              \
    X(CU_POINTER_ATTRIBUTE_DEVICE_POINTER, 3)           \
    X(CU_POINTER_ATTRIBUTE_HOST_POINTER, 4)             \
    X(CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL, 9)           \
    X(CU_POINTER_ATTRIBUTE_RANGE_START_ADDR, 11)        \
    X(CU_POINTER_ATTRIBUTE_RANGE_SIZE, 12)              \
    X(CU_MEMORYTYPE_HOST, 1)                            \
    X(CU_MEMORYTYPE_DEVICE, 2)                          \
    X(CU_GET_PROC_ADDRESS_SUCCESS, 0)                   \
    X(CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND, 1)          \
    X(CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT, 2)

#ifndef CUDA_VERSION

#define SIM_CUDA_CONSTANT(name, value) name = (value),
enum { SIM_CUDA_CONSTANTS(SIM_CUDA_CONSTANT) };
#undef SIM_CUDA_CONSTANT

#define CU_MEMHOSTALLOC_PORTABLE 1
#define CU_MEMHOSTALLOC_DEVICEMAP 2
#define CU_MEMHOSTALLOC_WRITECOMBINED 4
#define CU_MEMHOSTREGISTER_PORTABLE 1
#define CU_MEMHOSTREGISTER_DEVICEMAP 2
#define CU_MEMHOSTREGISTER_IOMEMORY 4
#define CU_MEMHOSTREGISTER_READ_ONLY 8
#define CU_STREAM_LEGACY ((CUstream)0x1)
#define CU_STREAM_PER_THREAD ((CUstream)0x2)

typedef int CUresult;
typedef int CUdevice;
typedef int CUdevice_attribute, CUmemAllocationGranularity_flags, CUpointer_attribute;
typedef int CUstreamCaptureMode, CUstreamCaptureStatus, CUdriverProcAddressQueryResult;
typedef uint64_t cuuint64_t;
typedef uint32_t cuuint32_t;
typedef unsigned long long CUdeviceptr;
typedef unsigned long long CUmemGenericAllocationHandle;
typedef struct CUctx_st *CUcontext;
typedef struct CUstream_st *CUstream;
typedef struct CUevent_st *CUevent;
typedef struct CUgraph_st *CUgraph;
typedef struct CUfunc_st *CUfunction;
typedef struct CUmemPoolHandle_st *CUmemoryPool;
typedef void (*CUhostFn)(void *data);
typedef void (*CUstreamCallback)(CUstream stream, CUresult status, void *data);

#endif /* CUDA_VERSION */

#if !defined(CUDA_VERSION) || defined(SIM_CUDA_CHECK_STRUCTS)

typedef struct {
    char bytes[16];
} CUuuid;

typedef struct {
    char reserved[64];
} CUipcMemHandle;

typedef struct {
    int type;
    int id;
} CUmemLocation;

typedef struct {
    int type;
    int requestedHandleTypes;
    CUmemLocation location;
    void *win32HandleMetaData;
    struct {
        unsigned char compressionType;
        unsigned char gpuDirectRDMACapable;
        unsigned short usage;
        unsigned char reserved[4];
    } allocFlags;
} CUmemAllocationProp;

typedef struct {
    CUmemLocation location;
    int flags;
} CUmemAccessDesc;

#endif

#ifndef SIM_CUDA_CHECK_STRUCTS

/* Base name, the version that introduced this form, exported name, parameters. */
#define SIM_CUDA_FUNCTIONS(X)                                                                      \
    X(cuInit, 2000, cuInit, (unsigned flags))                                                      \
    X(cuDriverGetVersion, 2020, cuDriverGetVersion, (int *version))                                \
    X(cuGetErrorName, 6000, cuGetErrorName, (CUresult error, const char **name))                   \
    X(cuGetErrorString, 6000, cuGetErrorString, (CUresult error, const char **text))               \
    X(cuGetProcAddress, 12000, cuGetProcAddress_v2,                                                \
      (const char *name, void **function, int version, cuuint64_t flags,                           \
       CUdriverProcAddressQueryResult *status))                                                    \
    X(cuDeviceGetCount, 2000, cuDeviceGetCount, (int *count))                                      \
    X(cuDeviceGet, 2000, cuDeviceGet, (CUdevice *device, int ordinal))                             \
    X(cuDeviceGetName, 2000, cuDeviceGetName, (char *name, int bytes, CUdevice device))            \
    X(cuDeviceGetUuid, 11040, cuDeviceGetUuid_v2, (CUuuid *uuid, CUdevice device))                 \
    X(cuDeviceTotalMem, 3020, cuDeviceTotalMem_v2, (size_t *bytes, CUdevice device))               \
    X(cuDeviceGetAttribute, 2000, cuDeviceGetAttribute,                                            \
      (int *value, CUdevice_attribute attribute, CUdevice device))                                 \
    X(cuDeviceGetPCIBusId, 4010, cuDeviceGetPCIBusId, (char *id, int bytes, CUdevice device))      \
    X(cuDeviceGetByPCIBusId, 4010, cuDeviceGetByPCIBusId, (CUdevice *device, const char *id))      \
    X(cuDeviceCanAccessPeer, 4000, cuDeviceCanAccessPeer,                                          \
      (int *can, CUdevice device, CUdevice peer))                                                  \
    X(cuDevicePrimaryCtxRetain, 7000, cuDevicePrimaryCtxRetain,                                    \
      (CUcontext *context, CUdevice device))                                                       \
    X(cuDevicePrimaryCtxRelease, 11000, cuDevicePrimaryCtxRelease_v2, (CUdevice device))           \
    X(cuDevicePrimaryCtxGetState, 7000, cuDevicePrimaryCtxGetState,                                \
      (CUdevice device, unsigned *flags, int *active))                                             \
    X(cuCtxSetCurrent, 4000, cuCtxSetCurrent, (CUcontext context))                                 \
    X(cuCtxGetCurrent, 4000, cuCtxGetCurrent, (CUcontext *context))                                \
    X(cuCtxPushCurrent, 4000, cuCtxPushCurrent_v2, (CUcontext context))                            \
    X(cuCtxPopCurrent, 4000, cuCtxPopCurrent_v2, (CUcontext *context))                             \
    X(cuCtxGetDevice, 2000, cuCtxGetDevice, (CUdevice *device))                                    \
    X(cuCtxSynchronize, 2000, cuCtxSynchronize, (void))                                            \
    X(cuCtxGetStreamPriorityRange, 5050, cuCtxGetStreamPriorityRange,                              \
      (int *least, int *greatest))                                                                 \
    X(cuCtxEnablePeerAccess, 4000, cuCtxEnablePeerAccess, (CUcontext peer, unsigned flags))        \
    X(cuCtxDisablePeerAccess, 4000, cuCtxDisablePeerAccess, (CUcontext peer))                      \
    X(cuMemGetInfo, 3020, cuMemGetInfo_v2, (size_t *free, size_t *total))                          \
    X(cuMemAlloc, 3020, cuMemAlloc_v2, (CUdeviceptr *address, size_t bytes))                       \
    X(cuMemFree, 3020, cuMemFree_v2, (CUdeviceptr address))                                        \
    X(cuMemAllocPitch, 3020, cuMemAllocPitch_v2,                                                   \
      (CUdeviceptr *address, size_t *pitch, size_t width, size_t height, unsigned element))        \
    X(cuDeviceGetDefaultMemPool, 11020, cuDeviceGetDefaultMemPool,                                 \
      (CUmemoryPool *pool, CUdevice device))                                                       \
    X(cuMemAllocFromPoolAsync, 11020, cuMemAllocFromPoolAsync,                                     \
      (CUdeviceptr *address, size_t bytes, CUmemoryPool pool, CUstream stream))                    \
    X(cuIpcGetMemHandle, 4010, cuIpcGetMemHandle, (CUipcMemHandle *handle, CUdeviceptr address))   \
    X(cuMemAllocHost, 3020, cuMemAllocHost_v2, (void **p, size_t bytes))                           \
    X(cuLaunchKernel, 4000, cuLaunchKernel,                                                        \
      (CUfunction function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,   \
       unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void **arguments,     \
       void **extra))                                                                              \
    X(cuFuncGetParamInfo, 12040, cuFuncGetParamInfo,                                               \
      (CUfunction function, size_t i, size_t *offset, size_t *bytes))                              \
    X(cuGetExportTable, 3000, cuGetExportTable, (const void **table, const CUuuid *id))            \
    X(cuMemGetAddressRange, 3020, cuMemGetAddressRange_v2,                                         \
      (CUdeviceptr *base, size_t *bytes, CUdeviceptr address))                                     \
    X(cuPointerGetAttribute, 4000, cuPointerGetAttribute,                                          \
      (void *data, CUpointer_attribute attribute, CUdeviceptr address))                            \
    X(cuPointerGetAttributes, 7000, cuPointerGetAttributes,                                        \
      (unsigned n, CUpointer_attribute *attributes, void **data, CUdeviceptr address))             \
    X(cuMemAllocAsync, 11020, cuMemAllocAsync,                                                     \
      (CUdeviceptr *address, size_t bytes, CUstream stream))                                       \
    X(cuMemFreeAsync, 11020, cuMemFreeAsync, (CUdeviceptr address, CUstream stream))               \
    X(cuMemHostAlloc, 2020, cuMemHostAlloc, (void **p, size_t bytes, unsigned flags))              \
    X(cuMemFreeHost, 2000, cuMemFreeHost, (void *p))                                               \
    X(cuMemHostRegister, 6050, cuMemHostRegister_v2, (void *p, size_t bytes, unsigned flags))      \
    X(cuMemHostUnregister, 4000, cuMemHostUnregister, (void *p))                                   \
    X(cuMemHostGetDevicePointer, 3020, cuMemHostGetDevicePointer_v2,                               \
      (CUdeviceptr *address, void *p, unsigned flags))                                             \
    X(cuMemHostGetFlags, 2030, cuMemHostGetFlags, (unsigned *flags, void *p))                      \
    X(cuMemAddressReserve, 10020, cuMemAddressReserve,                                             \
      (CUdeviceptr *address, size_t bytes, size_t align, CUdeviceptr hint,                         \
       unsigned long long flags))                                                                  \
    X(cuMemAddressFree, 10020, cuMemAddressFree, (CUdeviceptr address, size_t bytes))              \
    X(cuMemCreate, 10020, cuMemCreate,                                                             \
      (CUmemGenericAllocationHandle *handle, size_t bytes, const CUmemAllocationProp *prop,        \
       unsigned long long flags))                                                                  \
    X(cuMemRelease, 10020, cuMemRelease, (CUmemGenericAllocationHandle handle))                    \
    X(cuMemMap, 10020, cuMemMap,                                                                   \
      (CUdeviceptr address, size_t bytes, size_t offset, CUmemGenericAllocationHandle handle,      \
       unsigned long long flags))                                                                  \
    X(cuMemUnmap, 10020, cuMemUnmap, (CUdeviceptr address, size_t bytes))                          \
    X(cuMemSetAccess, 10020, cuMemSetAccess,                                                       \
      (CUdeviceptr address, size_t bytes, const CUmemAccessDesc *desc, size_t count))              \
    X(cuMemGetAccess, 10020, cuMemGetAccess,                                                       \
      (unsigned long long *flags, const CUmemLocation *location, CUdeviceptr address))             \
    X(cuMemGetAllocationGranularity, 10020, cuMemGetAllocationGranularity,                         \
      (size_t *granularity, const CUmemAllocationProp *prop,                                       \
       CUmemAllocationGranularity_flags option))                                                   \
    X(cuMemcpy, 4000, cuMemcpy, (CUdeviceptr to, CUdeviceptr from, size_t bytes))                  \
    X(cuMemcpyHtoD, 3020, cuMemcpyHtoD_v2, (CUdeviceptr to, const void *from, size_t bytes))       \
    X(cuMemcpyDtoH, 3020, cuMemcpyDtoH_v2, (void *to, CUdeviceptr from, size_t bytes))             \
    X(cuMemcpyDtoD, 3020, cuMemcpyDtoD_v2, (CUdeviceptr to, CUdeviceptr from, size_t bytes))       \
    X(cuMemcpyAsync, 4000, cuMemcpyAsync,                                                          \
      (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                           \
    X(cuMemcpyHtoDAsync, 3020, cuMemcpyHtoDAsync_v2,                                               \
      (CUdeviceptr to, const void *from, size_t bytes, CUstream stream))                           \
    X(cuMemcpyDtoHAsync, 3020, cuMemcpyDtoHAsync_v2,                                               \
      (void *to, CUdeviceptr from, size_t bytes, CUstream stream))                                 \
    X(cuMemcpyDtoDAsync, 3020, cuMemcpyDtoDAsync_v2,                                               \
      (CUdeviceptr to, CUdeviceptr from, size_t bytes, CUstream stream))                           \
    X(cuMemcpyPeerAsync, 4000, cuMemcpyPeerAsync,                                                  \
      (CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context,             \
       size_t bytes, CUstream stream))                                                             \
    X(cuMemsetD8, 3020, cuMemsetD8_v2, (CUdeviceptr to, unsigned char value, size_t n))            \
    X(cuMemsetD32, 3020, cuMemsetD32_v2, (CUdeviceptr to, unsigned value, size_t n))               \
    X(cuMemsetD8Async, 3020, cuMemsetD8Async,                                                      \
      (CUdeviceptr to, unsigned char value, size_t n, CUstream stream))                            \
    X(cuMemsetD32Async, 3020, cuMemsetD32Async,                                                    \
      (CUdeviceptr to, unsigned value, size_t n, CUstream stream))                                 \
    X(cuStreamCreate, 2000, cuStreamCreate, (CUstream *stream, unsigned flags))                    \
    X(cuStreamCreateWithPriority, 5050, cuStreamCreateWithPriority,                                \
      (CUstream *stream, unsigned flags, int priority))                                            \
    X(cuStreamGetPriority, 5050, cuStreamGetPriority, (CUstream stream, int *priority))            \
    X(cuStreamGetFlags, 5050, cuStreamGetFlags, (CUstream stream, unsigned *flags))                \
    X(cuStreamGetCtx, 9020, cuStreamGetCtx, (CUstream stream, CUcontext *context))                 \
    X(cuStreamGetId, 12000, cuStreamGetId, (CUstream stream, unsigned long long *id))              \
    X(cuStreamDestroy, 4000, cuStreamDestroy_v2, (CUstream stream))                                \
    X(cuStreamQuery, 2000, cuStreamQuery, (CUstream stream))                                       \
    X(cuStreamSynchronize, 2000, cuStreamSynchronize, (CUstream stream))                           \
    X(cuStreamWaitEvent, 3020, cuStreamWaitEvent,                                                  \
      (CUstream stream, CUevent event, unsigned flags))                                            \
    X(cuStreamAddCallback, 5000, cuStreamAddCallback,                                              \
      (CUstream stream, CUstreamCallback callback, void *data, unsigned flags))                    \
    X(cuLaunchHostFunc, 10000, cuLaunchHostFunc, (CUstream stream, CUhostFn fn, void *data))       \
    X(cuStreamWaitValue32, 11070, cuStreamWaitValue32_v2,                                          \
      (CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags))                    \
    X(cuStreamWaitValue64, 11070, cuStreamWaitValue64_v2,                                          \
      (CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned flags))                    \
    X(cuStreamWriteValue32, 11070, cuStreamWriteValue32_v2,                                        \
      (CUstream stream, CUdeviceptr address, cuuint32_t value, unsigned flags))                    \
    X(cuStreamWriteValue64, 11070, cuStreamWriteValue64_v2,                                        \
      (CUstream stream, CUdeviceptr address, cuuint64_t value, unsigned flags))                    \
    X(cuStreamBeginCapture, 10010, cuStreamBeginCapture_v2,                                        \
      (CUstream stream, CUstreamCaptureMode mode))                                                 \
    X(cuStreamEndCapture, 10000, cuStreamEndCapture, (CUstream stream, CUgraph *graph))            \
    X(cuStreamIsCapturing, 10000, cuStreamIsCapturing,                                             \
      (CUstream stream, CUstreamCaptureStatus *status))                                            \
    X(cuThreadExchangeStreamCaptureMode, 10010, cuThreadExchangeStreamCaptureMode,                 \
      (CUstreamCaptureMode *mode))                                                                 \
    X(cuGraphDestroy, 10000, cuGraphDestroy, (CUgraph graph))                                      \
    X(cuEventCreate, 2000, cuEventCreate, (CUevent *event, unsigned flags))                        \
    X(cuEventDestroy, 4000, cuEventDestroy_v2, (CUevent event))                                    \
    X(cuEventRecord, 2000, cuEventRecord, (CUevent event, CUstream stream))                        \
    X(cuEventQuery, 2000, cuEventQuery, (CUevent event))                                           \
    X(cuEventSynchronize, 2000, cuEventSynchronize, (CUevent event))                               \
    X(cuEventElapsedTime, 12080, cuEventElapsedTime_v2, (float *ms, CUevent from, CUevent to))     \
    X(cuEventElapsedTime, 2000, cuEventElapsedTime, (float *ms, CUevent from, CUevent to))

#define SIM_CUDA_FUNCTION(base, version, name, parameters)                     \
    __attribute__((visibility("default"))) CUresult name parameters;
SIM_CUDA_FUNCTIONS(SIM_CUDA_FUNCTION)
#undef SIM_CUDA_FUNCTION

#endif /* SIM_CUDA_CHECK_STRUCTS */

#endif /* TERRACE_TESTS_SIM_CUDA_ABI_H */
