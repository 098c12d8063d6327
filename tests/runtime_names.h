/* runtime_names.h - what runtimes in the shape of CUDA's call things, for
 * runtime_cases.h and runtime_tier_cases.h. A program defines F(name), which makes a
 * function's name of that without the prefix, and S(name), the same as a string, and
 * prepare_kind(). */
#ifndef TERRACE_TESTS_RUNTIME_NAMES_H
#define TERRACE_TESTS_RUNTIME_NAMES_H

#include <criterion/criterion.h>

enum { NO_MEMORY = 2, UNKNOWN = 999, INVALID = 1, LOST = 700 };

#define ALLOCATE S(Malloc)
#define FILL S(MemsetAsync)
#define COUNT S(GetDeviceCount)
#define PEER_COPY S(MemcpyPeerAsync)

__attribute__((unused)) static const char *const symbols[] = {
    S(GetDeviceCount), S(SetDevice), S(GetDevice), S(MemGetInfo), S(Malloc), S(Free), S(MemcpyAsync), S(MemsetAsync),
    S(StreamCreateWithFlags), S(StreamDestroy), S(StreamSynchronize), S(StreamQuery), S(StreamWaitEvent),
    S(EventCreateWithFlags), S(EventDestroy), S(EventRecord), S(EventQuery), S(HostRegister), S(HostUnregister),
    S(GetDeviceProperties), S(DeviceGetPCIBusId),
#ifdef CAPTURES
    S(StreamIsCapturing), S(ThreadExchangeStreamCaptureMode),
#endif
};

int F(GetDevice)(int *device);
int F(SetDevice)(int device);
int F(PeekAtLastError)(void);
int F(HostRegister)(void *p, size_t bytes, unsigned flags);
int F(HostUnregister)(void *p);
int F(StreamCreateWithFlags)(void **stream, unsigned flags);
int F(StreamSynchronize)(void *stream);
int F(StreamDestroy)(void *stream);

__attribute__((unused)) static int device_now(void)
{
    int device = -1;
    cr_assert_eq(F(GetDevice)(&device), 0);
    return device;
}

__attribute__((unused)) static void device_set(int device)
{
    cr_assert_eq(F(SetDevice)(device), 0);
}

__attribute__((unused)) static int last_error(void)
{
    return F(PeekAtLastError)();
}

__attribute__((unused)) static int host_register(void *p, size_t bytes)
{
    return F(HostRegister)(p, bytes, 1);
}

__attribute__((unused)) static int host_unregister(void *p)
{
    return F(HostUnregister)(p);
}

__attribute__((unused)) static void *stream_new(void)
{
    void *stream = NULL;
    cr_assert_eq(F(StreamCreateWithFlags)(&stream, 1), 0);
    return stream;
}

__attribute__((unused)) static void stream_end(void *stream)
{
    cr_assert_eq(F(StreamSynchronize)(stream), 0);
    cr_assert_eq(F(StreamDestroy)(stream), 0);
}

#endif
