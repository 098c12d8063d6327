/* runtime_capture_cases.h - captures, where a runtime in CUDA's shape has them: a
 * stream that is being captured is refused, a capture elsewhere is not spoilt. After
 * runtime_cases.h. */
#ifndef TERRACE_TESTS_RUNTIME_CAPTURE_CASES_H
#define TERRACE_TESTS_RUNTIME_CAPTURE_CASES_H

int F(StreamBeginCapture)(void *stream, int mode);
int F(StreamEndCapture)(void *stream, void **graph);
int F(GraphDestroy)(void *graph);

static void capture_end(void *stream)
{
    void *graph = NULL;
    cr_assert_eq(F(StreamEndCapture)(stream, &graph), 0, "the capture was spoilt");
    cr_assert_eq(F(GraphDestroy)(graph), 0);
}

Test(runtime_stream, a_captured_one_is_refused, .timeout = 30)
{
    void *mark, *stream;
    start();
    stream = stream_new();
    cr_assert_eq(F(StreamBeginCapture)(stream, 0), 0);
    cr_assert_eq(t.b->record(t.unit, stream, &mark), -TERRACE_EBUSY);
    says("acquire before the capture begins");
    cr_assert_eq(t.b->follow(t.unit, stream, NULL), -TERRACE_EBUSY);
    capture_end(stream);
    cr_assert_eq(t.b->follow(t.unit, stream, NULL), 0);
    stream_end(stream);
    end();
}

Test(runtime_stream, a_capture_is_not_spoilt, .timeout = 30)
{
    void *stream;
    uint64_t base;
    host = pages(M);
    start();
    stream = stream_new();
    cr_assert_eq(F(StreamBeginCapture)(stream, 0), 0);
    cr_assert_eq(t.b->reserve(t.unit, RANGE, 0, &base), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->pin(t.unit, host, M), 0);
    copies_there_and_back(base);
    t.b->unpin(t.unit, host, M);
    t.b->release(t.unit, base, RANGE);
    capture_end(stream);
    stream_end(stream);
    end();
}

#endif
