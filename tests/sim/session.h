/* session.h - what Criterion tests over the simulated CUDA driver share: a
 * context, checks of results, flags that streams wait for. Include it once. */
#ifndef TERRACE_TESTS_SIM_SESSION_H
#define TERRACE_TESTS_SIM_SESSION_H

#include <criterion/criterion.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "cuda_abi.h"
#include "sim.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

#define ok(call)                                                         \
    do {                                                                 \
        CUresult r_ = (call);                                            \
        cr_assert_eq(r_, CUDA_SUCCESS, "%s gives %d", #call, r_);        \
    } while (0)
#define fails(call, code)                                                \
    do {                                                                 \
        CUresult r_ = (call);                                            \
        cr_assert_eq(r_, code, "%s gives %d, not %s", #call, r_, #code); \
    } while (0)

/* The call fails with the code, and that is noted as a misuse. */
#define misused(call, code)                                                          \
    do {                                                                             \
        unsigned misuses_ = sim_misuses();                                           \
        fails(call, code);                                                           \
        cr_assert_eq(sim_misuses(), misuses_ + 1, "%s: %u misuses more", #call,      \
                     sim_misuses() - misuses_);                                      \
    } while (0)

static CUcontext context;

static inline void session_begin(void)
{
    ok(cuInit(0));
    ok(cuDevicePrimaryCtxRetain(&context, 0));
    ok(cuCtxSetCurrent(context));
}

/* Nothing was misused, but for what the test has looked at, and nothing is left. */
static inline void session_end(void)
{
    ok(cuDevicePrimaryCtxRelease_v2(0));
    for (unsigned i = 0; i < sim_misuses(); i++)
        cr_log_error("misuse: %s", sim_misuse(i));
    cr_assert_eq(sim_misuses(), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
}

static inline CUstream stream_new(void)
{
    CUstream stream;
    ok(cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING));
    return stream;
}

static inline CUevent event_new(void)
{
    CUevent event;
    ok(cuEventCreate(&event, CU_EVENT_DISABLE_TIMING));
    return event;
}

static inline CUdeviceptr memory_new(size_t bytes)
{
    CUdeviceptr address;
    ok(cuMemAlloc_v2(&address, bytes));
    return address;
}

static inline void *pinned_new(size_t bytes)
{
    void *p;
    ok(cuMemHostAlloc(&p, bytes, CU_MEMHOSTALLOC_PORTABLE | CU_MEMHOSTALLOC_DEVICEMAP));
    memset(p, 0, bytes);
    return p;
}

/* A number in page-locked memory, which streams wait for and the test raises. */
static inline uint64_t *flag_new(void)
{
    return pinned_new(sizeof(uint64_t));
}

static inline void flag_raise(uint64_t *flag, uint64_t value)
{
    __atomic_store_n(flag, value, __ATOMIC_RELEASE);
}

/* What is put into the stream from now on waits for the flag. */
static inline void wait_for(CUstream stream, const uint64_t *flag, uint64_t value)
{
    ok(cuStreamWaitValue64_v2(stream, (uintptr_t)flag, value, CU_STREAM_WAIT_VALUE_GEQ));
}

static inline double seconds(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

/* Time in which whatever is not held up is done. */
static inline void a_while(void)
{
    usleep(50000);
}

#endif /* TERRACE_TESTS_SIM_SESSION_H */
