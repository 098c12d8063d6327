/* opencl_driver.h - OpenCL's functions, as this build declares them.
 *
 * The loader of OpenCL implementations, libOpenCL.so.1, is loaded at run time, and
 * never linked: a build needs nothing of OpenCL, and the same build runs where there
 * is none. What is declared here is compared with <CL/cl.h> wherever that is
 * installed, by opencl_check.c.
 * May call: terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_OPENCL_DRIVER_H
#define TERRACE_OFFLOAD_OPENCL_DRIVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- types and values ---------------------------------------------------- */

typedef int32_t opencl_int;
typedef uint32_t opencl_uint;
typedef uint64_t opencl_bits;
typedef struct opencl_platform_opaque *opencl_platform;
typedef struct opencl_device_opaque *opencl_device;
typedef struct opencl_context_opaque *opencl_context;
typedef struct opencl_queue_opaque *opencl_queue;
typedef struct opencl_memory_opaque *opencl_memory;
typedef struct opencl_event_opaque *opencl_event;
typedef void (*opencl_notify)(const char *, const void *, size_t, void *);
typedef void (*opencl_completed)(opencl_event, opencl_int, void *);

typedef struct {
    size_t origin, size;
} opencl_region;

enum { /* of devices */
    OPENCL_DEVICE_TYPE = 0x1000,
    OPENCL_DEVICE_VENDOR_ID = 0x1001,
    OPENCL_DEVICE_MAX_MEM_ALLOC_SIZE = 0x1010,
    OPENCL_DEVICE_MEM_BASE_ADDR_ALIGN = 0x1019, /* in bits */
    OPENCL_DEVICE_GLOBAL_MEM_SIZE = 0x101F,
    OPENCL_DEVICE_AVAILABLE = 0x1027,
    OPENCL_DEVICE_QUEUE_PROPERTIES = 0x102A,
    OPENCL_DEVICE_NAME = 0x102B,
    OPENCL_DEVICE_VENDOR = 0x102C,
    OPENCL_DRIVER_VERSION = 0x102D,
    OPENCL_DEVICE_VERSION = 0x102F,
    OPENCL_DEVICE_HOST_UNIFIED_MEMORY = 0x1035
};

enum { /* kinds of devices */
    OPENCL_DEVICE_TYPE_CPU = 2,
    OPENCL_DEVICE_TYPE_GPU = 4,
    OPENCL_DEVICE_TYPE_ACCELERATOR = 8,
    OPENCL_DEVICE_TYPES = OPENCL_DEVICE_TYPE_CPU | OPENCL_DEVICE_TYPE_GPU | OPENCL_DEVICE_TYPE_ACCELERATOR
};

enum { /* of all else */
    OPENCL_PLATFORM_NAME = 0x0902,
    OPENCL_CONTEXT_PLATFORM = 0x1084,
    OPENCL_QUEUE_CONTEXT = 0x1090,
    OPENCL_QUEUE_DEVICE = 0x1091,
    OPENCL_QUEUE_PROPERTIES = 0x1093,
    OPENCL_QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE = 1,
    OPENCL_MEM_READ_WRITE = 1,
    OPENCL_BUFFER_CREATE_TYPE_REGION = 0x1220,
    OPENCL_EVENT_COMMAND_EXECUTION_STATUS = 0x11D3,
    OPENCL_COMPLETE = 0
};

/* Codes that are told apart or named. */
#define OPENCL_ERRORS(X)                                                                   \
    X(DEVICE_NOT_FOUND, -1)                                                                \
    X(DEVICE_NOT_AVAILABLE, -2)                                                            \
    X(MEM_OBJECT_ALLOCATION_FAILURE, -4)                                                   \
    X(OUT_OF_RESOURCES, -5)                                                                \
    X(OUT_OF_HOST_MEMORY, -6)                                                              \
    X(MISALIGNED_SUB_BUFFER_OFFSET, -13)                                                   \
    X(EXEC_STATUS_ERROR_FOR_EVENTS_IN_WAIT_LIST, -14)                                      \
    X(INVALID_VALUE, -30)                                                                  \
    X(INVALID_PLATFORM, -32)                                                               \
    X(INVALID_DEVICE, -33)                                                                 \
    X(INVALID_CONTEXT, -34)                                                                \
    X(INVALID_QUEUE_PROPERTIES, -35)                                                       \
    X(INVALID_COMMAND_QUEUE, -36)                                                          \
    X(INVALID_MEM_OBJECT, -38)                                                             \
    X(INVALID_EVENT_WAIT_LIST, -57)                                                        \
    X(INVALID_EVENT, -58)                                                                  \
    X(INVALID_OPERATION, -59)                                                              \
    X(INVALID_BUFFER_SIZE, -61)

enum {
    OPENCL_OK = 0,
#define OPENCL_ERROR_ENUM(name, value) OPENCL_##name = (value),
    OPENCL_ERRORS(OPENCL_ERROR_ENUM)
#undef OPENCL_ERROR_ENUM
    OPENCL_PLATFORM_NOT_FOUND = -1001 /* of the loader, an extension */
};

/* ---- functions ----------------------------------------------------------- */

/* REQUIRED or OPTIONAL(member of the table, exported symbol, result, parameters).
 * Required is what OpenCL 1.2 has. */
#define OPENCL_FUNCTIONS(REQUIRED, OPTIONAL)                                               \
    REQUIRED(platforms, clGetPlatformIDs, opencl_int, (opencl_uint, opencl_platform *, opencl_uint *)) \
    REQUIRED(platform_info, clGetPlatformInfo, opencl_int,                                 \
             (opencl_platform, opencl_uint, size_t, void *, size_t *))                     \
    REQUIRED(devices, clGetDeviceIDs, opencl_int,                                          \
             (opencl_platform, opencl_bits, opencl_uint, opencl_device *, opencl_uint *))  \
    REQUIRED(device_info, clGetDeviceInfo, opencl_int, (opencl_device, opencl_uint, size_t, void *, size_t *)) \
    REQUIRED(context_create, clCreateContext, opencl_context,                              \
             (const intptr_t *, opencl_uint, const opencl_device *, opencl_notify, void *, opencl_int *)) \
    REQUIRED(context_release, clReleaseContext, opencl_int, (opencl_context))              \
    REQUIRED(queue_release, clReleaseCommandQueue, opencl_int, (opencl_queue))             \
    REQUIRED(queue_info, clGetCommandQueueInfo, opencl_int, (opencl_queue, opencl_uint, size_t, void *, size_t *)) \
    REQUIRED(flush, clFlush, opencl_int, (opencl_queue))                                   \
    REQUIRED(buffer_create, clCreateBuffer, opencl_memory,                                 \
             (opencl_context, opencl_bits, size_t, void *, opencl_int *))                  \
    REQUIRED(part_create, clCreateSubBuffer, opencl_memory,                                \
             (opencl_memory, opencl_bits, opencl_uint, const void *, opencl_int *))        \
    REQUIRED(memory_release, clReleaseMemObject, opencl_int, (opencl_memory))              \
    REQUIRED(read, clEnqueueReadBuffer, opencl_int,                                        \
             (opencl_queue, opencl_memory, opencl_uint, size_t, size_t, void *, opencl_uint, const opencl_event *, \
              opencl_event *))                                                             \
    REQUIRED(write, clEnqueueWriteBuffer, opencl_int,                                      \
             (opencl_queue, opencl_memory, opencl_uint, size_t, size_t, const void *, opencl_uint,                 \
              const opencl_event *, opencl_event *))                                       \
    REQUIRED(marker, clEnqueueMarkerWithWaitList, opencl_int,                              \
             (opencl_queue, opencl_uint, const opencl_event *, opencl_event *))            \
    REQUIRED(barrier, clEnqueueBarrierWithWaitList, opencl_int,                            \
             (opencl_queue, opencl_uint, const opencl_event *, opencl_event *))            \
    REQUIRED(event_info, clGetEventInfo, opencl_int, (opencl_event, opencl_uint, size_t, void *, size_t *)) \
    REQUIRED(event_wait, clWaitForEvents, opencl_int, (opencl_uint, const opencl_event *)) \
    REQUIRED(event_release, clReleaseEvent, opencl_int, (opencl_event))                    \
    REQUIRED(event_callback, clSetEventCallback, opencl_int,                               \
             (opencl_event, opencl_int, opencl_completed, void *))                         \
    OPTIONAL(queue_create, clCreateCommandQueue, opencl_queue,                             \
             (opencl_context, opencl_device, opencl_bits, opencl_int *))                   \
    OPTIONAL(queue_create_with, clCreateCommandQueueWithProperties, opencl_queue,          \
             (opencl_context, opencl_device, const opencl_bits *, opencl_int *))

/* Empty until opencl_load() has succeeded; then only changed by tests. */
struct opencl_driver {
#define OPENCL_MEMBER(name, symbol, result, parameters) result(*name) parameters;
    OPENCL_FUNCTIONS(OPENCL_MEMBER, OPENCL_MEMBER)
#undef OPENCL_MEMBER
};
extern struct opencl_driver opencl;

/* Loads the library, once; false: why not. By any thread. */
bool opencl_load(char *why, size_t len);

/* The TERRACE_E... code for one of OpenCL's, and OpenCL's own name for people. */
int opencl_error(opencl_int code);
void opencl_text(opencl_int code, char *buf, size_t len);

#endif
