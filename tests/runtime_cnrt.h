/* runtime_cnrt.h - what tests of the CNRT (Cambricon) tier have to know of it. */
#ifndef TERRACE_TESTS_RUNTIME_CNRT_H
#define TERRACE_TESTS_RUNTIME_CNRT_H

#include <criterion/criterion.h>

#define KIND "cnrt"
#define API "CNRT"
#define LIMIT "TERRACE_LIMIT_CNRT"
#define MODEL "Simulated MLU 0"
#define NO_MEMORY_NAME "cnrtErrorNoMem (100100): simulated: out of memory"
#define LOST_NAME "cnrtErrorKernelTrap (100132)"
#define NO_PINS
enum { NO_MEMORY = 100100, UNKNOWN = 999991, INVALID = 100006, LOST = 100132 };

#define ALLOCATE "cnrtMalloc"
#define FILL "cnrtMemsetAsync"
#define COUNT "cnrtGetDeviceCount"
#define PEER_COPY "cnrtMemcpyPeerAsync"

__attribute__((unused)) static const char *const symbols[] = {
    "cnrtGetDeviceCount", "cnrtSetDevice", "cnrtGetDevice", "cnrtMemGetInfo", "cnrtMalloc", "cnrtFree",
    "cnrtMemcpyAsync_V3", "cnrtMemsetAsync", "cnrtQueueCreate", "cnrtQueueDestroy", "cnrtQueueSync", "cnrtQueueQuery",
    "cnrtQueueWaitNotifier", "cnrtNotifierCreateWithFlags", "cnrtNotifierDestroy", "cnrtPlaceNotifier",
    "cnrtQueryNotifier", "cnrtGetDeviceProperties_V3",
};

int cnrtGetDevice(int *device);
int cnrtSetDevice(int device);
int cnrtPeekAtLastError(void);
int cnrtQueueCreate(void **queue);
int cnrtQueueSync(void *queue);
int cnrtQueueDestroy(void *queue);

__attribute__((unused)) static int device_now(void)
{
    int device = -1;
    cr_assert_eq(cnrtGetDevice(&device), 0);
    return device;
}

__attribute__((unused)) static void device_set(int device)
{
    cr_assert_eq(cnrtSetDevice(device), 0);
}

__attribute__((unused)) static int last_error(void)
{
    return cnrtPeekAtLastError();
}

__attribute__((unused)) static void *stream_new(void)
{
    void *queue = NULL;
    cr_assert_eq(cnrtQueueCreate(&queue), 0);
    return queue;
}

__attribute__((unused)) static void stream_end(void *queue)
{
    cr_assert_eq(cnrtQueueSync(queue), 0);
    cr_assert_eq(cnrtQueueDestroy(queue), 0);
}

static void prepare_kind(void)
{
}

#endif
