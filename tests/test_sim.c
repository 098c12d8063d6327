/* test_sim.c - the simulated CUDA driver does what the documentation says, and
 * notices what must not be done. */
#include <criterion/criterion.h>
#include <string.h>

#include "sim/cuda_abi.h"
#include "sim/sim.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

#define ok(call)                                                     \
    do {                                                             \
        CUresult r_ = (call);                                        \
        cr_assert_eq(r_, CUDA_SUCCESS, "%s gives %d", #call, r_);    \
    } while (0)
#define fails(call, code)                                            \
    do {                                                             \
        CUresult r_ = (call);                                        \
        cr_assert_eq(r_, code, "%s gives %d, not %s", #call, r_, #code); \
    } while (0)

static CUcontext context;

static void begin(void)
{
    ok(cuInit(0));
    ok(cuDevicePrimaryCtxRetain(&context, 0));
    ok(cuCtxSetCurrent(context));
}

/* Nothing was misused and nothing is left. */
static void end(void)
{
    ok(cuDevicePrimaryCtxRelease_v2(0));
    for (unsigned i = 0; i < sim_misuses(); i++)
        cr_log_error("misuse: %s", sim_misuse(i));
    cr_assert_eq(sim_misuses(), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
}

Test(sim, there_and_back, .timeout = 60)
{
    CUdeviceptr d;
    char out[1000], back[1000];
    begin();
    memset(out, 7, sizeof out);
    ok(cuMemAlloc_v2(&d, sizeof out));
    ok(cuMemcpyHtoD_v2(d, out, sizeof out));
    ok(cuMemcpyDtoH_v2(back, d, sizeof out));
    cr_assert_eq(memcmp(out, back, sizeof out), 0);
    ok(cuMemFree_v2(d));
    end();
}
