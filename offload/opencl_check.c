/* opencl_check.c - compares our declarations of OpenCL with Khronos' own.
 *
 * Done by the compiler, where <CL/cl.h> is installed; no code. */
#if __has_include(<CL/cl.h>)

#define CL_TARGET_OPENCL_VERSION 300
#define CL_USE_DEPRECATED_OPENCL_1_2_APIS
#include <CL/cl.h>

#include "opencl_driver.h"

#define SAME_SIZE(ours, theirs) \
    _Static_assert(sizeof(ours) == sizeof(theirs) && _Alignof(ours) == _Alignof(theirs), #ours)
#define SAME_VALUE(name) _Static_assert((int)OPENCL_##name == (int)CL_##name, #name)

SAME_SIZE(opencl_int, cl_int);
SAME_SIZE(opencl_uint, cl_uint);
SAME_SIZE(opencl_uint, cl_bool);
SAME_SIZE(opencl_bits, cl_bitfield);
SAME_SIZE(opencl_bits, cl_queue_properties);
SAME_SIZE(intptr_t, cl_context_properties);
SAME_SIZE(opencl_region, cl_buffer_region);
_Static_assert(offsetof(opencl_region, size) == offsetof(cl_buffer_region, size), "opencl_region");

SAME_VALUE(DEVICE_TYPE);
SAME_VALUE(DEVICE_VENDOR_ID);
SAME_VALUE(DEVICE_MAX_MEM_ALLOC_SIZE);
SAME_VALUE(DEVICE_MEM_BASE_ADDR_ALIGN);
SAME_VALUE(DEVICE_GLOBAL_MEM_SIZE);
SAME_VALUE(DEVICE_AVAILABLE);
SAME_VALUE(DEVICE_QUEUE_PROPERTIES);
SAME_VALUE(DEVICE_NAME);
SAME_VALUE(DEVICE_VENDOR);
SAME_VALUE(DRIVER_VERSION);
SAME_VALUE(DEVICE_VERSION);
SAME_VALUE(DEVICE_HOST_UNIFIED_MEMORY);
SAME_VALUE(DEVICE_TYPE_CPU);
SAME_VALUE(DEVICE_TYPE_GPU);
SAME_VALUE(DEVICE_TYPE_ACCELERATOR);
SAME_VALUE(PLATFORM_NAME);
SAME_VALUE(CONTEXT_PLATFORM);
SAME_VALUE(QUEUE_CONTEXT);
SAME_VALUE(QUEUE_DEVICE);
SAME_VALUE(QUEUE_PROPERTIES);
SAME_VALUE(QUEUE_OUT_OF_ORDER_EXEC_MODE_ENABLE);
SAME_VALUE(MEM_READ_WRITE);
SAME_VALUE(BUFFER_CREATE_TYPE_REGION);
SAME_VALUE(EVENT_COMMAND_EXECUTION_STATUS);
SAME_VALUE(COMPLETE);
#define SAME_ERROR(name, value) SAME_VALUE(name);
OPENCL_ERRORS(SAME_ERROR)

typedef void (*their_completed)(cl_event, cl_int, void *);

/* From here on our parameters read as their types. */
#define opencl_int cl_int
#define opencl_uint cl_uint
#define opencl_bits cl_bitfield
#define opencl_platform cl_platform_id
#define opencl_device cl_device_id
#define opencl_context cl_context
#define opencl_queue cl_command_queue
#define opencl_memory cl_mem
#define opencl_event cl_event
#define opencl_completed their_completed
#define SAME_FUNCTION(name, symbol, result, parameters) \
    _Static_assert(__builtin_types_compatible_p(__typeof__(symbol), result parameters), #symbol);
OPENCL_FUNCTIONS(SAME_FUNCTION, SAME_FUNCTION)

#else
typedef int opencl_check_has_nothing_to_compare_with;
#endif
