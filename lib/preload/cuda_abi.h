/* cuda_abi.h - the CUDA driver's types and entries, as this library declares them.
 *
 * What is declared here is compared with <cuda.h> wherever that is installed, by
 * cuda_check.c. The list of entries is cuda_entries.def.
 * May call: libc. */
#ifndef TERRACE_PRELOAD_CUDA_ABI_H
#define TERRACE_PRELOAD_CUDA_ABI_H

#include <stddef.h>
#include <stdint.h>

typedef unsigned cuda_result;
typedef unsigned cuda_capture; /* whether a stream is being captured */
typedef unsigned cuda_mode;    /* which calls a capture forbids */
typedef unsigned cuda_pointer_attribute;
typedef unsigned cuda_status; /* what a search for a function came to */
typedef int cuda_device;
typedef unsigned long long cuda_address;
typedef struct cuda_context_opaque *cuda_context;
typedef struct cuda_stream_opaque *cuda_stream;
typedef struct cuda_event_opaque *cuda_event;
typedef struct cuda_pool_opaque *cuda_pool;
typedef struct cuda_function_opaque *cuda_function;
typedef struct cuda_module_opaque *cuda_module;
typedef struct cuda_library_opaque *cuda_library;
typedef struct cuda_kernel_opaque *cuda_kernel;
typedef struct cuda_array_opaque *cuda_array;
typedef struct cuda_graph_opaque *cuda_graph;
typedef struct cuda_node_opaque *cuda_node;
typedef struct cuda_graph_exec_opaque *cuda_graph_exec;

/* Structures that are only passed on. */
typedef struct cuda_ipc_handle cuda_ipc_handle;
typedef struct cuda_edge cuda_edge;
typedef struct cuda_copy2d cuda_copy2d;
typedef struct cuda_copy3d cuda_copy3d;
typedef struct cuda_copy3d_peer cuda_copy3d_peer;
typedef struct cuda_copy3d_op cuda_copy3d_op;
typedef struct cuda_copy_attributes cuda_copy_attributes;
typedef struct cuda_decompress cuda_decompress;
typedef struct cuda_launch_params cuda_launch_params;
typedef struct cuda_memory_op cuda_memory_op;

typedef struct { /* as far as it is read */
    unsigned grid[3], block[3], shared;
    cuda_stream stream;
} cuda_launch_config;

enum {
    CUDA_OK = 0,
    CUDA_INVALID_VALUE = 1,
    CUDA_OUT_OF_MEMORY = 2,
    CUDA_NOT_INITIALIZED = 3,
    CUDA_PEERLESS = 217, /* CUDA_ERROR_PEER_ACCESS_UNSUPPORTED */
    CUDA_NOT_FOUND = 500
};

enum { /* attributes of pointers */
    CUDA_POINTER_CONTEXT = 1,
    CUDA_POINTER_MEMORY_TYPE = 2,
    CUDA_POINTER_ORDINAL = 9,
    CUDA_POINTER_RANGE_START = 11,
    CUDA_POINTER_RANGE_SIZE = 12
};

enum {
    CUDA_MEMORY_OF_DEVICE = 2,
    CUDA_EVENT_WITHOUT_TIME = 2,
    CUDA_RELAXED = 2,
    CUDA_LOOKUP_PER_THREAD = 2 /* flag of cuGetProcAddress */
};

#define CUDA_STREAM_LEGACY ((cuda_stream)1)
#define CUDA_STREAM_PER_THREAD ((cuda_stream)2)

#ifndef CUDA_ABI_TYPES_ONLY

/* ---- the driver's own functions ---------------------------------------------- */

/* Those that the driver lacks, and all before reach_driver() has succeeded, are NULL. */
struct cuda_driver {
#define OWN(base, since, symbol, parameters) cuda_result (*symbol) parameters;
#define NEED(symbol, parameters) cuda_result (*symbol) parameters;
#define PLAIN(base, since, symbol, where, parameters, arguments) cuda_result (*symbol) parameters;
#define BOTH(base, since, symbol, since2, symbol2, parameters, arguments) \
    cuda_result (*symbol) parameters;                                     \
    cuda_result (*symbol2) parameters;
#include "cuda_entries.def"
};
extern struct cuda_driver driver __attribute__((visibility("hidden")));

/* ---- what stands in for them ------------------------------------------------- */

#define ENTRY __attribute__((visibility("default")))
#define OWN(base, since, symbol, parameters) ENTRY cuda_result symbol parameters;
#define NEED(symbol, parameters)
#define PLAIN(base, since, symbol, where, parameters, arguments) ENTRY cuda_result symbol parameters;
#define BOTH(base, since, symbol, since2, symbol2, parameters, arguments) \
    ENTRY cuda_result symbol parameters;                                  \
    ENTRY cuda_result symbol2 parameters;
#include "cuda_entries.def"

#endif /* CUDA_ABI_TYPES_ONLY */
#endif
