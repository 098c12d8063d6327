/* test_sim_misuse.c - what the simulated CUDA driver does wrong on demand, and
 * what it notices: faults, a device lost, misuses, leaks, calls that wait in vain,
 * processes that share a capacity. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "sim/session.h"

static void nothing(void *arg)
{
    (void)arg;
}

/* ---- faults ------------------------------------------------------------------------- */

Test(sim_misuse, calls_fail_on_demand, .timeout = 60)
{
    CUdeviceptr d;
    CUevent e;
    session_begin();
    sim_fail("cuMemAlloc_v2", 2, 1, CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuMemAlloc_v2(&d, KIB));
    ok(cuMemFree_v2(d));
    fails(cuMemAlloc_v2(&d, KIB), CUDA_ERROR_OUT_OF_MEMORY);
    ok(cuMemAlloc_v2(&d, KIB));
    ok(cuMemFree_v2(d));
    cr_assert_eq(sim_calls("cuMemAlloc_v2"), 3);
    sim_fail("cuEventCreate", 1, 0, CUDA_ERROR_UNKNOWN);
    for (int i = 0; i < 5; i++)
        fails(cuEventCreate(&e, 0), CUDA_ERROR_UNKNOWN);
    sim_fail("cuEventCreate", 0, 0, 0);
    ok(cuEventCreate(&e, 0));
    sim_fail(NULL, 3, 2, CUDA_ERROR_OPERATING_SYSTEM);
    ok(cuEventQuery(e));
    ok(cuStreamQuery(NULL));
    fails(cuEventQuery(e), CUDA_ERROR_OPERATING_SYSTEM);
    fails(cuStreamQuery(NULL), CUDA_ERROR_OPERATING_SYSTEM);
    ok(cuEventDestroy_v2(e));
    session_end();
}

Test(sim_misuse, a_device_is_lost_at_a_copy, .timeout = 60)
{
    unsigned char is[2] = {0, 0};
    CUdeviceptr other;
    session_begin();
    CUstream s = stream_new();
    CUevent e = event_new();
    char *host = pinned_new(KIB);
    CUdeviceptr d = memory_new(2 * KIB);
    ok(cuMemsetD8_v2(d, 0, 2 * KIB));
    ok(cuStreamSynchronize(NULL));
    memset(host, 1, KIB);
    sim_lose(0, 2, CUDA_ERROR_ECC_UNCORRECTABLE);
    sim_hold(1u << SIM_COPY);
    ok(cuMemcpyHtoDAsync_v2(d, host, KIB, s));
    ok(cuMemcpyHtoDAsync_v2(d + KIB, host, KIB, s));
    ok(cuEventRecord(e, s));
    sim_let_go();
    fails(cuEventSynchronize(e), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuStreamSynchronize(s), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuMemAlloc_v2(&other, KIB), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuMemcpyHtoDAsync_v2(d, host, KIB, s), CUDA_ERROR_ECC_UNCORRECTABLE);
    cr_assert(sim_read(is, d, 1) && sim_read(is + 1, d + KIB, 1));
    cr_assert(is[0] == 1 && is[1] == 0); /* the first was done, the second not */
    fails(cuMemFree_v2(d), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuMemFreeHost(host), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuEventDestroy_v2(e), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuStreamDestroy_v2(s), CUDA_ERROR_ECC_UNCORRECTABLE);
    fails(cuDevicePrimaryCtxRelease_v2(0), CUDA_ERROR_ECC_UNCORRECTABLE);
    cr_assert_eq(sim_misuses(), 0);
    cr_assert_eq(sim_leaks(stderr), 0);
}

Test(sim_misuse, a_lost_device_lets_go_of_what_waits, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream s = stream_new();
    wait_for(s, flag, 1);
    ok(sim_launch(s, nothing, NULL, 0));
    a_while();
    fails(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    sim_lose(0, 0, CUDA_ERROR_LAUNCH_FAILED);
    fails(cuStreamSynchronize(s), CUDA_ERROR_LAUNCH_FAILED);
    for (int i = 0; i < 1000 && sim_pending(); i++)
        usleep(1000);
    cr_assert_eq(sim_pending(), 0);
}

/* ---- misuses ---------------------------------------------------------------------------- */

CUresult cuMemAlloc(void); /* the old form, whatever it takes */

Test(sim_misuse, what_must_not_be_done_is_noticed, .timeout = 60)
{
    CUdeviceptr d;
    CUevent e;
    CUstream s;
    char host[16];
    int value;
    session_begin();
    s = stream_new();
    e = event_new();
    d = memory_new(KIB);
    ok(cuStreamDestroy_v2(s));
    ok(cuEventDestroy_v2(e));
    misused(cuStreamDestroy_v2(s), CUDA_ERROR_INVALID_HANDLE);
    misused(cuStreamQuery(s), CUDA_ERROR_INVALID_HANDLE);
    misused(cuStreamSynchronize((CUstream)host), CUDA_ERROR_INVALID_HANDLE);
    misused(cuEventDestroy_v2(e), CUDA_ERROR_INVALID_HANDLE);
    misused(cuEventRecord(e, NULL), CUDA_ERROR_INVALID_HANDLE);
    misused(cuStreamWaitEvent(NULL, e, 0), CUDA_ERROR_INVALID_HANDLE);
    misused(cuStreamCreate(&s, 2), CUDA_ERROR_INVALID_VALUE);
    misused(cuEventCreate(&e, 8), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemAlloc_v2(&d, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemFree_v2(d + 16), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemcpyHtoD_v2(d + KIB - 8, host, 16), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemcpyHtoD_v2((uintptr_t)host, host, 16), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemcpyDtoH_v2((void *)(uintptr_t)d, d, 16), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemcpyDtoH_v2(NULL, d, 16), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemsetD32_v2(d + 2, 0, 1), CUDA_ERROR_INVALID_VALUE);
    misused(cuDeviceGetAttribute(&value, 9999, 0), CUDA_ERROR_INVALID_VALUE);
    misused(cuMemAlloc(), CUDA_ERROR_INVALID_VALUE);
    ok(cuMemFree_v2(d));
    ok(cuMemFree_v2(0));
    misused(cuMemFree_v2(d), CUDA_ERROR_INVALID_VALUE);
    cr_assert(strstr(sim_misuse(sim_misuses() - 1), "is freed"));
    cr_assert_null(sim_misuse(sim_misuses()));
    sim_forget_misuses();
    session_end();
}

Test(sim_misuse, of_another_context, .timeout = 60)
{
    CUcontext second;
    setenv("SIM_CUDA_DEVICES", "2", 1);
    session_begin();
    CUstream here = stream_new();
    CUevent e = event_new();
    ok(cuDevicePrimaryCtxRetain(&second, 1));
    ok(cuCtxSetCurrent(second));
    CUstream there = stream_new();
    misused(cuEventRecord(e, there), CUDA_ERROR_INVALID_HANDLE);
    misused(sim_launch(here, nothing, NULL, 0), CUDA_ERROR_INVALID_HANDLE);
    ok(cuStreamWaitEvent(there, e, 0)); /* this may be */
    ok(cuStreamDestroy_v2(there));
    ok(cuDevicePrimaryCtxRelease_v2(1));
    ok(cuCtxSetCurrent(context));
    ok(cuEventDestroy_v2(e));
    ok(cuStreamDestroy_v2(here));
    sim_forget_misuses();
    session_end();
}

Test(sim_misuse, what_is_left_is_listed, .timeout = 60)
{
    static char page[8192] __attribute__((aligned(4096)));
    char *text;
    size_t length;
    CUdeviceptr d, a;
    CUmemGenericAllocationHandle handle;
    CUmemAllocationProp prop = {.type = CU_MEM_ALLOCATION_TYPE_PINNED,
                                .location = {CU_MEM_LOCATION_TYPE_DEVICE, 0}};
    session_begin();
    CUstream s = stream_new();
    CUevent e = event_new();
    void *host = pinned_new(KIB);
    ok(cuMemHostRegister_v2(page, sizeof page, 0));
    ok(cuMemAlloc_v2(&d, KIB));
    ok(cuMemAddressReserve(&a, 4 * MIB, 0, 0, 0));
    ok(cuMemCreate(&handle, 2 * MIB, &prop, 0));
    ok(cuMemMap(a, 2 * MIB, 0, handle, 0));
    FILE *to = open_memstream(&text, &length);
    cr_assert_eq(sim_leaks(to), 9); /* the context is the ninth */
    fclose(to);
    static const char *const kinds[] = {"left: stream",        "left: event",   "allocated host memory",
                                        "registered host",     "left: mapping", "left: allocation",
                                        "left: reservation",   "left: memory",  "context of device"};
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++)
        cr_assert(strstr(text, kinds[i]), "no %s in %s", kinds[i], text);
    free(text);
    ok(cuMemUnmap(a, 2 * MIB));
    ok(cuMemRelease(handle));
    ok(cuMemAddressFree(a, 4 * MIB));
    ok(cuMemFree_v2(d));
    ok(cuMemHostUnregister(page));
    ok(cuMemFreeHost(host));
    ok(cuEventDestroy_v2(e));
    cr_assert_eq(sim_leaks(NULL), 2);
    ok(cuStreamDestroy_v2(s));
    s = stream_new();
    misused(cuDevicePrimaryCtxRelease_v2(0), CUDA_SUCCESS); /* takes the stream with it */
    cr_assert_eq(sim_leaks(stderr), 0);
}

/* ---- waiting in vain --------------------------------------------------------------------------- */

static void *allocate(void *arg)
{
    CUdeviceptr d;
    int r = cuCtxSetCurrent(context);
    r = r ? r : cuMemAlloc_v2(&d, KIB);
    r = r ? r : cuMemFree_v2(d);
    __atomic_store_n((int *)arg, r, __ATOMIC_RELEASE);
    return NULL;
}

Test(sim_misuse, calls_that_wait_for_all_work_can_wait_in_vain, .timeout = 60)
{
    pthread_t thread;
    int result = -1;
    session_begin();
    sim_set("SYNC", SIM_SYNC_ALLOC);
    sim_set("STALL_MS", 100);
    uint64_t *flag = flag_new();
    CUstream s = stream_new();
    wait_for(s, flag, 1);
    cr_assert_eq(pthread_create(&thread, NULL, allocate, &result), 0);
    for (int i = 0; i < 3000 && !sim_misuses(); i++)
        usleep(1000);
    cr_assert_eq(sim_misuses(), 1);
    cr_assert(strstr(sim_misuse(0), "cuMemAlloc_v2 has waited"), "%s", sim_misuse(0));
    cr_assert(strstr(sim_misuse(0), "waits for a value in memory"), "%s", sim_misuse(0));
    cr_assert_eq(__atomic_load_n(&result, __ATOMIC_ACQUIRE), -1);
    flag_raise(flag, 1);
    pthread_join(thread, NULL);
    cr_assert_eq(result, 0);
    sim_set("SYNC", 0);
    flag_raise(flag, 0);
    wait_for(s, flag, 1);
    allocate(&result); /* does not wait now */
    cr_assert_eq(result, 0);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(s));
    ok(cuMemFreeHost(flag));
    ok(cuStreamDestroy_v2(s));
    sim_forget_misuses();
    session_end();
}

/* ---- processes ------------------------------------------------------------------------------------- */

enum { ALL = 64 };

/* Takes all the MiB it can get, says how many, and waits to be killed. */
static void take_all(int to)
{
    unsigned char n = 0;
    CUdeviceptr d;
    if (cuInit(0) || cuDevicePrimaryCtxRetain(&context, 0) || cuCtxSetCurrent(context))
        _exit(1);
    while (n < ALL + 10 && cuMemAlloc_v2(&d, MIB) == CUDA_SUCCESS)
        n++;
    if (write(to, &n, 1) == 1)
        for (;;)
            pause();
    _exit(1);
}

Test(sim_misuse, processes_share_a_capacity, .timeout = 60)
{
    char name[64];
    int pipe_ends[2];
    pid_t child[2];
    unsigned char took[2] = {0, 0};
    size_t available, total;
    snprintf(name, sizeof name, "/terrace-sim-%d", (int)getpid());
    setenv("SIM_CUDA_ACCOUNT", name, 1);
    setenv("SIM_CUDA_CAPACITY", "64M", 1);
    cr_assert_eq(pipe(pipe_ends), 0);
    for (int i = 0; i < 2; i++)
        if (!(child[i] = fork()))
            take_all(pipe_ends[1]);
    for (int i = 0; i < 2; i++)
        cr_assert_eq(read(pipe_ends[0], took + i, 1), 1);
    cr_assert_eq(took[0] + took[1], ALL, "%d and %d", took[0], took[1]);
    session_begin();
    ok(cuMemGetInfo_v2(&available, &total));
    cr_assert_eq(available, 0);
    for (int i = 0; i < 2; i++) {
        kill(child[i], SIGKILL);
        waitpid(child[i], NULL, 0);
    }
    ok(cuMemGetInfo_v2(&available, &total));
    cr_assert_eq(available, ALL * MIB); /* of the dead nothing is left */
    shm_unlink(name);
    session_end();
}

Test(sim_misuse, a_forked_child_has_no_driver, .timeout = 60)
{
    int status;
    session_begin();
    CUstream s = stream_new();
    pid_t child = fork();
    if (!child) {
        int r = cuStreamQuery(s) == CUDA_ERROR_NOT_INITIALIZED && cuInit(0) == CUDA_ERROR_NOT_INITIALIZED;
        _exit(r ? 0 : 1);
    }
    cr_assert(waitpid(child, &status, 0) == child && status == 0);
    ok(cuStreamDestroy_v2(s));
    session_end();
}

Test(sim_misuse, a_report_at_the_end, .timeout = 60)
{
    char text[4096] = "";
    int pipe_ends[2];
    cr_assert_eq(pipe(pipe_ends), 0);
    pid_t child = fork();
    if (!child) {
        setenv("SIM_CUDA_REPORT", "1", 1);
        dup2(pipe_ends[1], 2);
        CUdeviceptr d;
        if (!cuInit(0) && !cuDevicePrimaryCtxRetain(&context, 0) && !cuCtxSetCurrent(context) &&
            !cuMemAlloc_v2(&d, KIB))
            cuMemFree_v2(d + 1);
        exit(0);
    }
    close(pipe_ends[1]);
    for (ssize_t n, at = 0; (n = read(pipe_ends[0], text + at, sizeof text - 1 - (size_t)at)) > 0;)
        at += n;
    waitpid(child, NULL, 0);
    cr_assert(strstr(text, "left: allocation") && strstr(text, "1 misuses, 2 left"), "%s", text);
}
