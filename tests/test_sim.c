/* test_sim.c - streams, events and timing of the simulated CUDA driver are what
 * the documentation says. */
#include <dlfcn.h>
#include <pthread.h>

#include "sim/session.h"

/* Kernels: add to a number in device memory, or note what one is. */
struct step {
    CUdeviceptr at;
    int add, saw;
};

static void run_step(void *arg)
{
    struct step *step = arg;
    int *number = sim_memory(step->at, sizeof *number);
    if (!number)
        return;
    step->saw = *number;
    *number = step->saw * 10 + step->add;
}

static CUdeviceptr number_new(void)
{
    CUdeviceptr at = memory_new(sizeof(int));
    ok(cuMemsetD32_v2(at, 0, 1));
    ok(cuCtxSynchronize());
    return at;
}

static int number_at(CUdeviceptr at)
{
    int value;
    cr_assert(sim_read(&value, at, sizeof value));
    return value;
}

Test(sim, there_and_back, .timeout = 60)
{
    char out[1000], back[1000];
    session_begin();
    memset(out, 7, sizeof out);
    CUdeviceptr d = memory_new(sizeof out);
    ok(cuMemcpyHtoD_v2(d, out, sizeof out));
    ok(cuMemcpyDtoH_v2(back, d, sizeof out));
    cr_assert_eq(memcmp(out, back, sizeof out), 0);
    ok(cuMemFree_v2(d));
    session_end();
}

Test(sim, what_dlopen_finds, .timeout = 60)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(library);
    cr_assert_eq(dlsym(library, "cuMemAlloc_v2"), (void *)cuMemAlloc_v2);
    cr_assert_neq(dlsym(library, "cuMemAlloc"), NULL);
    cr_assert_neq(dlsym(library, "cuMemAlloc"), (void *)cuMemAlloc_v2);
    cr_assert_null(dlsym(library, "engine_lock"));
    dlclose(library);
}

Test(sim, a_stream_keeps_its_order, .timeout = 60)
{
    session_begin();
    CUstream s = stream_new();
    struct step first = {number_new(), 1, -1}, second = {first.at, 2, -1};
    ok(sim_launch(s, run_step, &first, 30000000));
    ok(sim_launch(s, run_step, &second, 0));
    fails(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    ok(cuStreamSynchronize(s));
    ok(cuStreamQuery(s));
    cr_assert_eq(number_at(first.at), 12);
    ok(cuMemFree_v2(first.at));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

Test(sim, streams_run_side_by_side, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    struct step step = {number_new(), 1, -1};
    wait_for(a, flag, 1);
    ok(sim_launch(b, run_step, &step, 0));
    ok(cuStreamSynchronize(b));
    fails(cuStreamQuery(a), CUDA_ERROR_NOT_READY);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(a));
    ok(cuMemFreeHost(flag));
    ok(cuMemFree_v2(step.at));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

Test(sim, streams_that_share_a_queue_block_each_other, .timeout = 60)
{
    session_begin();
    sim_set("QUEUES", 1);
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    wait_for(a, flag, 1);
    ok(cuStreamWriteValue64_v2(b, (uintptr_t)flag, 1, 0)); /* never comes to that */
    a_while();
    fails(cuStreamQuery(b), CUDA_ERROR_NOT_READY);
    cr_assert_eq(sim_pending(), 2);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(b));
    ok(cuMemFreeHost(flag));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

Test(sim, with_queues_enough_they_do_not, .timeout = 60)
{
    session_begin();
    sim_set("QUEUES", 2);
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    wait_for(a, flag, 1);
    ok(cuStreamWriteValue64_v2(b, (uintptr_t)flag, 1, 0));
    ok(cuStreamSynchronize(a));
    ok(cuStreamSynchronize(b));
    ok(cuMemFreeHost(flag));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

/* ---- events ------------------------------------------------------------------------- */

Test(sim, an_event_orders_streams, .timeout = 60)
{
    session_begin();
    CUstream a = stream_new(), b = stream_new();
    CUevent e = event_new();
    struct step first = {number_new(), 1, -1}, second = {first.at, 2, -1};
    ok(sim_launch(a, run_step, &first, 30000000));
    ok(cuEventRecord(e, a));
    ok(cuStreamWaitEvent(b, e, 0));
    ok(sim_launch(b, run_step, &second, 0));
    fails(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    ok(cuEventSynchronize(e));
    ok(cuEventQuery(e));
    ok(cuStreamSynchronize(b));
    cr_assert_eq(number_at(first.at), 12);
    ok(cuMemFree_v2(first.at));
    ok(cuEventDestroy_v2(e));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

Test(sim, to_wait_for_what_was_never_recorded_is_no_wait, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    CUevent e = event_new();
    ok(cuEventQuery(e));
    ok(cuEventSynchronize(e));
    ok(cuStreamWaitEvent(b, e, 0));
    wait_for(a, flag, 1);
    ok(cuEventRecord(e, a));
    ok(cuStreamSynchronize(b)); /* though e has not been reached now */
    fails(cuEventQuery(e), CUDA_ERROR_NOT_READY);
    flag_raise(flag, 1);
    ok(cuEventSynchronize(e));
    ok(cuMemFreeHost(flag));
    ok(cuEventDestroy_v2(e));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

Test(sim, recording_again_leaves_earlier_waits_alone, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    CUevent e = event_new();
    wait_for(a, flag, 1);
    ok(cuEventRecord(e, a));
    ok(cuStreamWaitEvent(b, e, 0));
    wait_for(a, flag, 2);
    ok(cuEventRecord(e, a));
    a_while();
    fails(cuStreamQuery(b), CUDA_ERROR_NOT_READY);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(b)); /* waited for the first */
    fails(cuEventQuery(e), CUDA_ERROR_NOT_READY); /* which is about the second */
    flag_raise(flag, 2);
    ok(cuEventSynchronize(e));
    ok(cuMemFreeHost(flag));
    ok(cuEventDestroy_v2(e)); /* also while waited for, see below */
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

Test(sim, what_is_destroyed_is_done_to_the_end, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream a = stream_new(), b = stream_new();
    CUevent e = event_new();
    struct step step = {number_new(), 1, -1};
    wait_for(a, flag, 1);
    ok(sim_launch(a, run_step, &step, 0));
    ok(cuEventRecord(e, a));
    ok(cuStreamWaitEvent(b, e, 0));
    ok(cuEventDestroy_v2(e));
    ok(cuStreamDestroy_v2(a));
    a_while();
    fails(cuStreamQuery(b), CUDA_ERROR_NOT_READY);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(b));
    cr_assert_eq(number_at(step.at), 1);
    ok(cuMemFreeHost(flag));
    ok(cuMemFree_v2(step.at));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

Test(sim, time_between_events, .timeout = 60)
{
    session_begin();
    CUstream s = stream_new();
    CUevent from, to, without = event_new();
    struct step step = {number_new(), 1, -1};
    float ms;
    ok(cuEventCreate(&from, CU_EVENT_DEFAULT));
    ok(cuEventCreate(&to, CU_EVENT_DEFAULT));
    fails(cuEventElapsedTime_v2(&ms, from, to), CUDA_ERROR_INVALID_HANDLE);
    ok(cuEventRecord(from, s));
    ok(sim_launch(s, run_step, &step, 30000000));
    ok(cuEventRecord(to, s));
    fails(cuEventElapsedTime_v2(&ms, from, to), CUDA_ERROR_NOT_READY);
    ok(cuEventSynchronize(to));
    ok(cuEventElapsedTime_v2(&ms, from, to));
    cr_assert(ms >= 29 && ms < 20000, "%f ms", (double)ms);
    ok(cuEventRecord(without, s));
    ok(cuEventSynchronize(without));
    fails(cuEventElapsedTime_v2(&ms, from, without), CUDA_ERROR_INVALID_HANDLE);
    ok(cuMemFree_v2(step.at));
    ok(cuEventDestroy_v2(from));
    ok(cuEventDestroy_v2(to));
    ok(cuEventDestroy_v2(without));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

/* ---- the default stream ------------------------------------------------------------------ */

Test(sim, the_default_stream_and_blocking_ones_wait_for_each_other, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream before, after, apart = stream_new();
    ok(cuStreamCreate(&before, CU_STREAM_DEFAULT));
    ok(cuStreamCreate(&after, CU_STREAM_DEFAULT));
    struct step one = {number_new(), 1, -1}, two = {one.at, 2, -1}, three = {one.at, 3, -1};
    CUdeviceptr elsewhere = number_new();
    struct step other = {elsewhere, 5, -1};
    wait_for(before, flag, 1);
    ok(sim_launch(before, run_step, &one, 0));
    ok(sim_launch(NULL, run_step, &two, 0));
    ok(sim_launch(after, run_step, &three, 0));
    ok(sim_launch(apart, run_step, &other, 0));
    ok(cuStreamSynchronize(apart));
    a_while();
    cr_assert_eq(number_at(one.at), 0);
    fails(cuStreamQuery(NULL), CUDA_ERROR_NOT_READY);
    fails(cuStreamQuery(CU_STREAM_LEGACY), CUDA_ERROR_NOT_READY);
    flag_raise(flag, 1);
    ok(cuStreamSynchronize(after));
    cr_assert_eq(number_at(one.at), 123);
    ok(cuStreamSynchronize(NULL));
    ok(cuMemFreeHost(flag));
    ok(cuMemFree_v2(one.at));
    ok(cuMemFree_v2(elsewhere));
    ok(cuStreamDestroy_v2(before));
    ok(cuStreamDestroy_v2(after));
    ok(cuStreamDestroy_v2(apart));
    session_end();
}

Test(sim, the_default_stream_does_not_wait_for_others, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream apart = stream_new();
    struct step step = {number_new(), 1, -1};
    wait_for(apart, flag, 1);
    ok(sim_launch(NULL, run_step, &step, 0));
    ok(cuStreamSynchronize(NULL));
    cr_assert_eq(number_at(step.at), 1);
    flag_raise(flag, 1);
    ok(cuCtxSynchronize());
    ok(cuStreamQuery(apart));
    ok(cuMemFreeHost(flag));
    ok(cuMemFree_v2(step.at));
    ok(cuStreamDestroy_v2(apart));
    session_end();
}

/* ---- values -------------------------------------------------------------------------------- */

static void value_case(CUstream s, uint64_t *flag, unsigned how, uint64_t wanted, uint64_t not_yet,
                       uint64_t then)
{
    flag_raise(flag, not_yet);
    ok(cuStreamWaitValue64_v2(s, (uintptr_t)flag, wanted, how));
    usleep(10000);
    fails(cuStreamQuery(s), CUDA_ERROR_NOT_READY);
    flag_raise(flag, then);
    ok(cuStreamSynchronize(s));
}

Test(sim, streams_wait_for_values, .timeout = 60)
{
    session_begin();
    uint64_t *flag = flag_new();
    CUstream s = stream_new();
    value_case(s, flag, CU_STREAM_WAIT_VALUE_GEQ, 5, 4, 7);
    value_case(s, flag, CU_STREAM_WAIT_VALUE_GEQ, 3, UINT64_MAX, 3); /* cyclic: -1 is before 3 */
    value_case(s, flag, CU_STREAM_WAIT_VALUE_EQ, 5, 7, 5);
    value_case(s, flag, CU_STREAM_WAIT_VALUE_AND, 6, 9, 2);
    value_case(s, flag, CU_STREAM_WAIT_VALUE_NOR, UINT64_MAX << 1, 1, 0);
    misused(cuStreamWaitValue64_v2(s, (uintptr_t)flag, 1, 4), CUDA_ERROR_INVALID_VALUE);
    misused(cuStreamWaitValue64_v2(s, (uintptr_t)flag + 4, 1, 0), CUDA_ERROR_INVALID_VALUE);
    fails(cuStreamWaitValue64_v2(s, (uintptr_t)flag, 1, CU_STREAM_WAIT_VALUE_FLUSH),
          CUDA_ERROR_NOT_SUPPORTED);
    sim_set("MEMOPS", 0);
    fails(cuStreamWaitValue64_v2(s, (uintptr_t)flag, 1, 0), CUDA_ERROR_NOT_SUPPORTED);
    sim_forget_misuses();
    ok(cuMemFreeHost(flag));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

Test(sim, streams_write_values, .timeout = 60)
{
    session_begin();
    CUdeviceptr flag = memory_new(16);
    CUstream a = stream_new(), b = stream_new();
    uint64_t value = 0;
    ok(cuMemsetD32_v2(flag, 0, 4));
    ok(cuStreamSynchronize(NULL));
    ok(cuStreamWaitValue64_v2(a, flag, 1ull << 40, 0));
    ok(cuStreamWriteValue64_v2(a, flag + 8, 9, 0));
    ok(cuStreamWriteValue64_v2(b, flag, 1ull << 40, 0));
    ok(cuStreamSynchronize(a));
    cr_assert(sim_read(&value, flag + 8, sizeof value));
    cr_assert_eq(value, 9);
    ok(cuMemFree_v2(flag));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    session_end();
}

/* ---- copies and time -------------------------------------------------------------------------- */

Test(sim, a_copy_is_done_when_its_time_is_over, .timeout = 60)
{
    session_begin();
    sim_set("DTOH_NS", 100000000);
    CUstream s = stream_new();
    CUdeviceptr d = memory_new(4 * KIB);
    unsigned char *back = pinned_new(4 * KIB);
    ok(cuMemsetD8_v2(d, 1, 4 * KIB));
    ok(cuStreamSynchronize(NULL));
    ok(cuMemcpyDtoHAsync_v2(back, d, 4 * KIB, s));
    cr_assert_eq(__atomic_load_n(back + 4 * KIB - 1, __ATOMIC_RELAXED), 0); /* too early */
    ok(cuStreamSynchronize(s));
    cr_assert_eq(back[4 * KIB - 1], 1);
    ok(cuMemFreeHost(back));
    ok(cuMemFree_v2(d));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

Test(sim, a_source_changed_too_early_shows, .timeout = 60)
{
    session_begin();
    sim_set("HTOD_NS", 100000000);
    CUstream s = stream_new();
    CUdeviceptr d = memory_new(4 * KIB);
    unsigned char *from = pinned_new(4 * KIB), is[2];
    memset(from, 1, 4 * KIB);
    ok(cuMemcpyHtoDAsync_v2(d, from, 4 * KIB, s));
    usleep(50000);
    memset(from, 2, 4 * KIB);
    ok(cuStreamSynchronize(s));
    cr_assert(sim_read(is, d, 1) && sim_read(is + 1, d + 4 * KIB - 1, 1));
    cr_assert(is[0] == 1 && is[1] == 2, "%d %d", is[0], is[1]);
    ok(cuMemFreeHost(from));
    ok(cuMemFree_v2(d));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

/* Seconds that two copies of a MiB take, each in a stream of its own, at 10 MiB/s. */
static double two_copies(bool both_ways)
{
    CUstream a = stream_new(), b = stream_new();
    CUdeviceptr d = memory_new(2 * MIB);
    char *host = pinned_new(2 * MIB);
    double start = seconds();
    ok(cuMemcpyHtoDAsync_v2(d, host, MIB, a));
    if (both_ways)
        ok(cuMemcpyDtoHAsync_v2(host + MIB, d + MIB, MIB, b));
    else
        ok(cuMemcpyHtoDAsync_v2(d + MIB, host + MIB, MIB, b));
    ok(cuStreamSynchronize(a));
    ok(cuStreamSynchronize(b));
    double took = seconds() - start;
    ok(cuMemFreeHost(host));
    ok(cuMemFree_v2(d));
    ok(cuStreamDestroy_v2(a));
    ok(cuStreamDestroy_v2(b));
    return took;
}

Test(sim, copies_of_a_direction_share_its_rate, .timeout = 60)
{
    session_begin();
    sim_set("HTOD_RATE", 10 * MIB);
    sim_set("DTOH_RATE", 10 * MIB);
    double one_way = two_copies(false), both_ways = two_copies(true);
    cr_assert(one_way > 0.19, "%f s", one_way);
    cr_assert(both_ways > 0.09 && both_ways < one_way, "%f s", both_ways);
    sim_set("ASYNC_ENGINES", 1);
    both_ways = two_copies(true);
    cr_assert(both_ways > 0.19, "%f s with one engine", both_ways);
    session_end();
}

Test(sim, what_was_done_can_be_read, .timeout = 60)
{
    session_begin();
    CUstream s = stream_new();
    CUdeviceptr d = memory_new(2 * KIB);
    char *host = pinned_new(KIB);
    struct sim_done done;
    struct sim_counts counts;
    sim_hold(1u << SIM_COPY);
    ok(cuMemcpyHtoDAsync_v2(d, host, KIB, s));
    ok(cuMemcpyDtoDAsync_v2(d + KIB, d, KIB, s));
    a_while();
    cr_assert(!sim_done(0, &done));
    sim_let_go();
    ok(cuStreamSynchronize(s));
    cr_assert(sim_done(0, &done) && done.kind == SIM_COPY && done.direction == SIM_HTOD && done.to == d &&
              done.from == (uintptr_t)host && done.bytes == KIB && done.stream == s && !done.pageable);
    cr_assert(sim_done(1, &done) && done.direction == SIM_DTOD);
    sim_count(&counts);
    cr_assert(counts.copies[SIM_HTOD] == 1 && counts.bytes[SIM_DTOD] == KIB && !counts.pageable_copies);
    ok(cuMemFreeHost(host));
    ok(cuMemFree_v2(d));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

/* ---- functions of the host ----------------------------------------------------------------------- */

static void note_order(void *arg)
{
    struct step *step = arg;
    sim_read(&step->saw, step->at, sizeof step->saw);
}

static void call_driver(void *arg)
{
    size_t available, total;
    *(CUresult *)arg = cuMemGetInfo_v2(&available, &total);
}

static void note_callback(CUstream stream, CUresult status, void *arg)
{
    *(CUresult *)arg = status == CUDA_SUCCESS && stream ? 77 : 0;
}

Test(sim, functions_of_the_host, .timeout = 60)
{
    session_begin();
    CUstream s = stream_new();
    struct step step = {number_new(), 4, -1}, seen = {step.at, 0, -1};
    CUresult inside = -1, called = -1;
    ok(sim_launch(s, run_step, &step, 20000000));
    ok(cuLaunchHostFunc(s, note_order, &seen));
    ok(cuLaunchHostFunc(s, call_driver, &inside));
    ok(cuStreamAddCallback(s, note_callback, &called, 0));
    ok(cuStreamSynchronize(s));
    cr_assert_eq(seen.saw, 4);
    cr_assert_eq(inside, CUDA_ERROR_NOT_PERMITTED);
    cr_assert_eq(called, 77);
    cr_assert_eq(sim_misuses(), 1);
    cr_assert(strstr(sim_misuse(0), "cuMemGetInfo_v2 is called in a host function"));
    sim_forget_misuses();
    ok(cuMemFree_v2(step.at));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

/* ---- captures --------------------------------------------------------------------------------------- */

static int capture_status(CUstream stream)
{
    CUstreamCaptureStatus status;
    ok(cuStreamIsCapturing(stream, &status));
    return status;
}

static void begin_capture(CUstream stream, CUstreamCaptureMode mode)
{
    ok(cuStreamBeginCapture_v2(stream, mode));
    cr_assert_eq(capture_status(stream), CU_STREAM_CAPTURE_STATUS_ACTIVE);
}

static void end_capture(CUstream stream, CUresult expected)
{
    CUgraph graph;
    CUresult r = cuStreamEndCapture(stream, &graph);
    cr_assert_eq(r, expected, "%d, not %d", r, expected);
    cr_assert_eq(graph == NULL, expected != CUDA_SUCCESS);
    cr_assert_eq(capture_status(stream), CU_STREAM_CAPTURE_STATUS_NONE);
    if (graph)
        ok(cuGraphDestroy(graph));
}

Test(sim, what_is_captured_is_not_done, .timeout = 60)
{
    session_begin();
    CUstream s = stream_new(), other = stream_new();
    CUevent e = event_new(), back = event_new(), outside = event_new();
    struct step step = {number_new(), 1, -1};
    fails(cuStreamBeginCapture_v2(NULL, CU_STREAM_CAPTURE_MODE_RELAXED),
          CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    begin_capture(s, CU_STREAM_CAPTURE_MODE_GLOBAL);
    fails(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_GLOBAL), CUDA_ERROR_ILLEGAL_STATE);
    ok(sim_launch(s, run_step, &step, 0));
    ok(cuEventRecord(e, s));
    ok(cuStreamWaitEvent(other, e, 0)); /* joins */
    cr_assert_eq(capture_status(other), CU_STREAM_CAPTURE_STATUS_ACTIVE);
    ok(sim_launch(other, run_step, &step, 0));
    CUgraph graph;
    fails(cuStreamEndCapture(other, &graph), CUDA_ERROR_STREAM_CAPTURE_UNMATCHED);
    ok(cuEventRecord(back, other));
    ok(cuStreamWaitEvent(s, back, 0));
    end_capture(s, CUDA_SUCCESS);
    cr_assert_eq(capture_status(other), CU_STREAM_CAPTURE_STATUS_NONE);
    ok(cuCtxSynchronize());
    cr_assert_eq(number_at(step.at), 0);
    fails(cuEventQuery(e), CUDA_ERROR_CAPTURED_EVENT); /* until it is recorded again */

    begin_capture(s, CU_STREAM_CAPTURE_MODE_RELAXED);
    ok(cuEventRecord(e, s));
    fails(cuEventQuery(e), CUDA_ERROR_CAPTURED_EVENT);
    ok(cuStreamWaitEvent(other, e, 0));
    ok(sim_launch(other, run_step, &step, 0));
    end_capture(s, CUDA_ERROR_STREAM_CAPTURE_UNJOINED);

    ok(cuEventRecord(outside, other));
    begin_capture(s, CU_STREAM_CAPTURE_MODE_RELAXED);
    fails(cuStreamWaitEvent(s, outside, 0), CUDA_ERROR_STREAM_CAPTURE_ISOLATION);
    end_capture(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ok(cuEventRecord(e, s));
    ok(cuEventSynchronize(e));
    ok(cuMemFree_v2(step.at));
    ok(cuEventDestroy_v2(e));
    ok(cuEventDestroy_v2(back));
    ok(cuEventDestroy_v2(outside));
    ok(cuStreamDestroy_v2(s));
    ok(cuStreamDestroy_v2(other));
    session_end();
}

Test(sim, what_a_capture_refuses, .timeout = 60)
{
    session_begin();
    CUdeviceptr d;
    CUstream s = stream_new();
    CUevent e = event_new();
    struct step step = {number_new(), 1, -1};
    CUstreamCaptureMode mode = CU_STREAM_CAPTURE_MODE_RELAXED;
    begin_capture(s, CU_STREAM_CAPTURE_MODE_RELAXED);
    ok(cuEventQuery(e));
    fails(cuStreamSynchronize(s), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    cr_assert_eq(capture_status(s), CU_STREAM_CAPTURE_STATUS_INVALIDATED);
    fails(sim_launch(s, run_step, &step, 0), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    end_capture(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin_capture(s, CU_STREAM_CAPTURE_MODE_GLOBAL);
    fails(cuMemAlloc_v2(&d, KIB), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    end_capture(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    begin_capture(s, CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
    fails(cuEventQuery(e), CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
    end_capture(s, CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);

    begin_capture(s, CU_STREAM_CAPTURE_MODE_GLOBAL);
    ok(cuThreadExchangeStreamCaptureMode(&mode));
    cr_assert_eq(mode, CU_STREAM_CAPTURE_MODE_GLOBAL);
    ok(cuMemAlloc_v2(&d, KIB));
    ok(cuEventQuery(e));
    ok(cuThreadExchangeStreamCaptureMode(&mode));
    cr_assert_eq(mode, CU_STREAM_CAPTURE_MODE_RELAXED);
    end_capture(s, CUDA_SUCCESS);
    ok(cuMemFree_v2(d));
    ok(cuMemFree_v2(step.at));
    ok(cuEventDestroy_v2(e));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

static void *query_and_end(void *arg)
{
    CUgraph graph;
    CUevent e = ((void **)arg)[0];
    CUstream s = ((void **)arg)[1];
    CUresult *results = ((void **)arg)[2];
    cuCtxSetCurrent(context);
    results[0] = cuStreamEndCapture(s, &graph);
    results[1] = cuEventQuery(e);
    return NULL;
}

Test(sim, captures_and_other_threads, .timeout = 60)
{
    session_begin();
    pthread_t thread;
    CUresult results[2] = {-1, -1};
    CUstream s = stream_new();
    CUevent e = event_new();
    void *args[] = {e, s, results};
    for (int global = 0; global < 2; global++) {
        begin_capture(s, global ? CU_STREAM_CAPTURE_MODE_GLOBAL : CU_STREAM_CAPTURE_MODE_THREAD_LOCAL);
        cr_assert_eq(pthread_create(&thread, NULL, query_and_end, args), 0);
        pthread_join(thread, NULL);
        cr_assert_eq(results[0], CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD);
        cr_assert_eq(results[1], global ? CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED : CUDA_SUCCESS);
        end_capture(s, global ? CUDA_ERROR_STREAM_CAPTURE_INVALIDATED : CUDA_SUCCESS);
    }
    ok(cuEventDestroy_v2(e));
    ok(cuStreamDestroy_v2(s));
    session_end();
}

Test(sim, the_default_stream_is_not_to_meet_a_capture, .timeout = 60)
{
    session_begin();
    CUstream s;
    CUgraph graph;
    struct step step = {number_new(), 1, -1};
    ok(cuStreamCreate(&s, CU_STREAM_DEFAULT));
    ok(cuStreamBeginCapture_v2(s, CU_STREAM_CAPTURE_MODE_RELAXED));
    fails(sim_launch(NULL, run_step, &step, 0), CUDA_ERROR_STREAM_CAPTURE_IMPLICIT);
    fails(cuStreamEndCapture(s, &graph), CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    ok(sim_launch(NULL, run_step, &step, 0));
    ok(cuStreamSynchronize(NULL));
    ok(cuMemFree_v2(step.at));
    ok(cuStreamDestroy_v2(s));
    session_end();
}
