/* cuda_check.c - lets the compiler compare cuda_abi.h with NVIDIA's own header
 * where that is installed; compiled with the simulated driver, never linked. */
#if __has_include(<cuda.h>)
#include <cuda.h>
#include <stddef.h>

/* The functions are declared twice, which must agree, and the constants compared. */
#include "cuda_abi.h"

#define SAME(name, value) _Static_assert((long long)(name) == (long long)(value), #name);
SIM_CUDA_CONSTANTS(SAME)

#define SAME_FLAG(name, value) _Static_assert((name) == (value), #name)
SAME_FLAG(CU_MEMHOSTALLOC_PORTABLE, 1);
SAME_FLAG(CU_MEMHOSTALLOC_DEVICEMAP, 2);
SAME_FLAG(CU_MEMHOSTALLOC_WRITECOMBINED, 4);
SAME_FLAG(CU_MEMHOSTREGISTER_PORTABLE, 1);
SAME_FLAG(CU_MEMHOSTREGISTER_DEVICEMAP, 2);
SAME_FLAG(CU_MEMHOSTREGISTER_IOMEMORY, 4);
SAME_FLAG(CU_MEMHOSTREGISTER_READ_ONLY, 8);

/* The structures once more, under names of their own. */
#define CUuuid sim_uuid
#define CUipcMemHandle sim_ipc_handle
#define CUmemLocation sim_location
#define CUmemAllocationProp sim_prop
#define CUmemAccessDesc sim_desc
#define SIM_CUDA_CHECK_STRUCTS
#undef TERRACE_TESTS_SIM_CUDA_ABI_H
#undef SIM_CUDA_CONSTANTS
#include "cuda_abi.h"
#undef CUuuid
#undef CUipcMemHandle
#undef CUmemLocation
#undef CUmemAllocationProp
#undef CUmemAccessDesc

#define SAME_SIZE(ours, theirs) _Static_assert(sizeof(ours) == sizeof(theirs), #theirs)
#define SAME_PLACE(ours, theirs, field) \
    _Static_assert(offsetof(ours, field) == offsetof(theirs, field), #theirs "." #field)
SAME_SIZE(sim_uuid, CUuuid);
SAME_SIZE(sim_ipc_handle, CUipcMemHandle);
SAME_SIZE(sim_location, CUmemLocation);
SAME_PLACE(sim_location, CUmemLocation, id);
SAME_SIZE(sim_prop, CUmemAllocationProp);
SAME_PLACE(sim_prop, CUmemAllocationProp, requestedHandleTypes);
SAME_PLACE(sim_prop, CUmemAllocationProp, location);
SAME_PLACE(sim_prop, CUmemAllocationProp, win32HandleMetaData);
SAME_PLACE(sim_prop, CUmemAllocationProp, allocFlags.compressionType);
SAME_PLACE(sim_prop, CUmemAllocationProp, allocFlags.usage);
SAME_SIZE(sim_desc, CUmemAccessDesc);
SAME_PLACE(sim_desc, CUmemAccessDesc, flags);
#endif
