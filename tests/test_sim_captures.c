/* test_sim_captures.c - streams of the simulated CUDA driver that are captured:
 * nothing is done, and what the documentation forbids meanwhile is refused. */
#include <pthread.h>

#include "sim/session.h"

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

Test(sim_captures, what_is_captured_is_not_done, .timeout = 60)
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

Test(sim_captures, what_a_capture_refuses, .timeout = 60)
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

Test(sim_captures, captures_and_other_threads, .timeout = 60)
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

Test(sim_captures, the_default_stream_is_not_to_meet_a_capture, .timeout = 60)
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
