/* runtime_ascend.h - what tests of the Ascend tier have to know of it. */
#ifndef TERRACE_TESTS_RUNTIME_ASCEND_H
#define TERRACE_TESTS_RUNTIME_ASCEND_H

#include <criterion/criterion.h>
#include <stdint.h>

#define KIND "ascend"
#define API "ACL"
#define LIMIT "TERRACE_LIMIT_ASCEND"
#define MODEL "Simulated Ascend"
#define NO_MEMORY_NAME "ACL_ERROR_RT_MEMORY_ALLOCATION (207001): simulated: out of memory"
#define LOST_NAME "ACL_ERROR_RT_AICORE_EXCEPTION (507015)"
enum { NO_MEMORY = 207001, UNKNOWN = 507000, INVALID = 107000, LOST = 507015 };

#define MAPS
#define ALLOCATE "aclrtMalloc"
#define FILL "aclrtMemsetAsync"
#define COUNT "aclrtGetDeviceCount"

__attribute__((unused)) static const char *const symbols[] = {
    "aclInit", "aclrtGetDeviceCount", "aclrtSetDevice", "aclrtGetCurrentContext", "aclrtSetCurrentContext",
    "aclrtGetMemInfo", "aclrtMalloc", "aclrtFree", "aclrtMemcpyAsync", "aclrtMemsetAsync", "aclrtCreateStream",
    "aclrtDestroyStream", "aclrtSynchronizeStream", "aclrtStreamWaitEvent", "aclrtCreateEventExWithFlag",
    "aclrtDestroyEvent", "aclrtRecordEvent", "aclrtQueryEventStatus", "aclrtStreamQuery", "aclrtHostRegisterV2",
    "aclrtHostUnregister", "aclrtDeviceGetPCIBusId", "aclrtReserveMemAddress", "aclrtReleaseMemAddress",
    "aclrtMallocPhysical", "aclrtFreePhysical", "aclrtMapMem", "aclrtUnmapMem",
};

int aclrtGetDevice(int32_t *device);
int aclrtSetDevice(int32_t device);
int aclrtHostRegisterV2(void *p, uint64_t bytes, uint32_t flag);
int aclrtHostUnregister(void *p);
int aclrtCreateStream(void **stream);
int aclrtSynchronizeStream(void *stream);
int aclrtDestroyStream(void *stream);

__attribute__((unused)) static int device_now(void)
{
    int32_t device = -1;
    cr_assert_eq(aclrtGetDevice(&device), 0);
    return device;
}

__attribute__((unused)) static void device_set(int device)
{
    cr_assert_eq(aclrtSetDevice(device), 0);
}

__attribute__((unused)) static int last_error(void)
{
    return 0; /* there is none that lasts */
}

__attribute__((unused)) static int host_register(void *p, size_t bytes)
{
    return aclrtHostRegisterV2(p, bytes, 0x10000000);
}

__attribute__((unused)) static int host_unregister(void *p)
{
    return aclrtHostUnregister(p);
}

__attribute__((unused)) static void *stream_new(void)
{
    void *stream = NULL;
    cr_assert_eq(aclrtCreateStream(&stream), 0);
    return stream;
}

__attribute__((unused)) static void stream_end(void *stream)
{
    cr_assert_eq(aclrtSynchronizeStream(stream), 0);
    cr_assert_eq(aclrtDestroyStream(stream), 0);
}

static void prepare_kind(void)
{
}

#endif
