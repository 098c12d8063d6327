/* test_cuda_copy.c - copies and streams of the NVIDIA tier, on a simulated driver:
 * merged, told late or never, lost with the device; marks that pass and are
 * followed; captures. */
#include <stdatomic.h>

#include "cuda_cases.h"

/* ---- copies -------------------------------------------------------------- */

/* A list of n copies of a page each, next to each other. */
static void small_copies(terrace_io *io, terrace_io **list, unsigned n, int op, uint64_t base, char *host)
{
    for (unsigned i = 0; i < n; i++) {
        io[i] = conform_io(op, base + i * 4096, host + i * 4096, 4096);
        list[i] = &io[i];
    }
}

Test(cuda_copy, small_neighbours_are_one)
{
    enum { N = 16 };
    terrace_io io[N], *list[N];
    char *host = pages(N * 4096);
    cuda_start();
    uint64_t base = conform_range(GRANULE);
    cr_assert_eq(t.b->pin(t.unit, host, N * 4096), 0);
    pattern_fill(host, N * 4096, 3);
    small_copies(io, list, N, TERRACE_IO_WRITE, base, host);
    cr_assert_eq(t.b->submit(t.unit, list, N), N);
    conform_collect(io, N);
    cr_assert_eq(counted().copies[SIM_HTOD], 1);
    cr_assert_eq(counted().pageable_copies, 0);
    memset(host, 0, N * 4096);
    small_copies(io, list, N, TERRACE_IO_READ, base, host);
    list[4] = &io[5]; /* out of order: three runs and what is between */
    list[5] = &io[4];
    cr_assert_eq(t.b->submit(t.unit, list, N), N);
    conform_collect(io, N);
    cr_assert_eq(counted().copies[SIM_DTOH], 4);
    cr_assert(pattern_is(host, N * 4096, 3));
    t.b->unpin(t.unit, host, N * 4096);
    t.b->release(t.unit, base, GRANULE);
    cuda_end();
}

Test(cuda_copy, does_not_reach_out_of_a_registration)
{
    enum { N = 8 };
    terrace_io io[N], *list[N];
    char *host = pages(N * 4096);
    cuda_start();
    uint64_t base = conform_range(GRANULE);
    cr_assert_eq(t.b->pin(t.unit, host, 2 * 4096), 0);
    cr_assert_eq(t.b->pin(t.unit, host + 2 * 4096, 4096), 0);
    pattern_fill(host, N * 4096, 4);
    small_copies(io, list, N, TERRACE_IO_WRITE, base, host);
    cr_assert_eq(t.b->submit(t.unit, list, N), N);
    conform_collect(io, N);
    cr_assert_eq(counted().copies[SIM_HTOD], 3);
    memset(host, 0, N * 4096);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base + 4096 * 4, host + 4096 * 4, 4096), 0);
    cr_assert_eq(counted().pageable_copies, 2);
    t.b->unpin(t.unit, host, 2 * 4096);
    t.b->unpin(t.unit, host + 2 * 4096, 4096);
    t.b->release(t.unit, base, GRANULE);
    cuda_end();
}

/* Both directions, as many as there may be, in a few batches. */
Test(cuda_copy, goes_both_ways_at_once)
{
    enum { N = 8, SIZE = M };
    terrace_io io[2 * N], *list[2 * N];
    char *host = pages((size_t)2 * N * SIZE);
    cuda_start();
    cr_assert_eq(t.b->pin(t.unit, host, (size_t)2 * N * SIZE), 0);
    uint64_t base = conform_range(2 * N * SIZE);
    for (unsigned i = 0; i < N; i++) {
        pattern_fill(host + i * SIZE, SIZE, i);
        cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + i * SIZE, host + i * SIZE, SIZE), 0);
    }
    memset(host, 0, N * SIZE);
    for (unsigned i = 0; i < N; i++) {
        pattern_fill(host + (N + i) * SIZE, SIZE, 100 + i);
        io[2 * i] = conform_io(TERRACE_IO_READ, base + i * SIZE, host + i * SIZE, SIZE);
        io[2 * i + 1] = conform_io(TERRACE_IO_WRITE, base + (N + i) * SIZE, host + (N + i) * SIZE, SIZE);
    }
    for (unsigned i = 0; i < 2 * N; i++)
        list[i] = &io[i];
    cr_assert_eq(t.b->submit(t.unit, list, 2 * N), 2 * N);
    conform_collect(io, 2 * N);
    for (unsigned i = 0; i < N; i++)
        cr_assert(pattern_is(host + i * SIZE, SIZE, i));
    t.b->unpin(t.unit, host, (size_t)2 * N * SIZE);
    t.b->release(t.unit, base, 2 * N * SIZE);
    cuda_end();
}

/* Other functions keep the driver's thread from telling. */
Test(cuda_copy, is_noticed_without_being_told, .timeout = 30)
{
    char *host = pages(M);
    cuda_start();
    uint64_t base = conform_range(GRANULE);
    cr_assert_eq(t.b->pin(t.unit, host, M), 0);
    terrace_io io = conform_io(TERRACE_IO_WRITE, base, host, M), *one = &io, *done[1];
    sim_fail("cuLaunchHostFunc", 1, 1, 2);
    cr_assert_eq(copy_now(t.b, t.unit, &io), 0, "it cannot even be asked to");
    sim_hold(1u << SIM_COPY);
    cr_assert_eq(t.b->submit(t.unit, &one, 1), 1);
    cr_assert_eq(t.b->wait(t.unit, done, 1, 50000000), 0);
    sim_let_go();
    cr_assert_eq(t.b->wait(t.unit, done, 1, INT64_C(5000000000)), 1);
    sim_hold(1u << SIM_HOST_FUNCTION);
    cr_assert_eq(t.b->submit(t.unit, &one, 1), 1);
    cr_assert_eq(t.b->wait(t.unit, done, 1, INT64_C(5000000000)), 1, "it is done, though nobody tells");
    sim_let_go();
    cr_assert_eq(copy_now(t.b, t.unit, &io), 0);
    t.b->unpin(t.unit, host, M);
    t.b->release(t.unit, base, GRANULE);
    cuda_end();
}

Test(cuda_copy, returns_soon, .timeout = 60)
{
    enum { N = 200 };
    int64_t slept[N];
    char *host = pages(4096);
    cuda_start();
    uint64_t base = conform_range(GRANULE);
    cr_assert_eq(t.b->pin(t.unit, host, 4096), 0);
    for (int i = 0; i < N; i++) {
        int64_t start = stub_now_ns();
        cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, 4096), 0);
        slept[i] = stub_now_ns() - start;
    }
    unsigned late = 0;
    for (int i = 0; i < N; i++)
        late += slept[i] > 9000000;
    cr_assert_lt(late, N / 4, "told, not found out by asking");
    t.b->unpin(t.unit, host, 4096);
    t.b->release(t.unit, base, GRANULE);
    cuda_end();
}

Test(cuda_copy, a_lost_device_is_an_error_and_not_a_wait, .timeout = 60)
{
    enum { N = 6 };
    terrace_io io[N], *list[N], *done[N];
    char text[512], *host = pages((size_t)N * CHUNK);
    uint64_t other;
    cuda_start();
    cr_assert_eq(t.b->pin(t.unit, host, (size_t)N * CHUNK), 0);
    uint64_t base = conform_range((uint64_t)N * CHUNK);
    for (unsigned i = 0; i < N; i++) {
        io[i] = conform_io(TERRACE_IO_WRITE, base + (uint64_t)i * CHUNK, host + (size_t)i * CHUNK, CHUNK);
        list[i] = &io[i];
    }
    sim_lose(0, 3, 700);
    cr_assert_eq(t.b->submit(t.unit, list, N), N);
    unsigned back = 0, failed = 0;
    while (back < N) {
        int n = t.b->wait(t.unit, done, N, INT64_C(5000000000));
        cr_assert_gt(n, 0);
        back += (unsigned)n;
    }
    for (unsigned i = 0; i < N; i++) {
        cr_assert(io[i].result == 0 || io[i].result == -TERRACE_EDEVICE, "%d", io[i].result);
        failed += io[i].result != 0;
        if (io[i].result)
            t.b->explain(t.unit, &io[i], text, sizeof text);
    }
    cr_assert_geq(failed, 1);
    cr_assert(strstr(text, "writing 4194304 bytes at 0x") && strstr(text, "cuda:0 (") &&
              strstr(text, "CUDA_ERROR_ILLEGAL_ADDRESS ("), "%s", text);
    cr_assert_lt(t.b->submit(t.unit, list, 1) > 0 ? conform_copy(TERRACE_IO_WRITE, base, host, 4096) : -1, 0);
    cr_assert_eq(t.b->reserve(t.unit, GRANULE, 0, &other), -TERRACE_EDEVICE);
    cr_assert_not_null(strstr(stub.sentence, "CUDA_ERROR_ILLEGAL_ADDRESS"), "%s", stub.sentence);
    cr_assert_eq(t.b->available(t.unit, &other), -TERRACE_EDEVICE);
    t.b->unpin(t.unit, host, (size_t)N * CHUNK);
    t.b->release(t.unit, base, (uint64_t)N * CHUNK);
    t.b->close(t.unit);
}

/* ---- streams ------------------------------------------------------------- */

static void set_true(void *flag)
{
    atomic_store((atomic_bool *)flag, true);
}

static cuda_stream stream_new(cuda_context context, unsigned flags)
{
    struct cuda_scope scope;
    cuda_stream stream;
    cr_assert_eq(cuda_enter(context, &scope), 0);
    cr_assert_eq(cuda.stream_create(&stream, flags), 0);
    cuda_leave(&scope);
    return stream;
}

static void stream_end(cuda_context context, cuda_stream stream)
{
    struct cuda_scope scope;
    cr_assert_eq(cuda_enter(context, &scope), 0);
    cr_assert_eq(cuda.stream_destroy(stream), 0);
    cuda_leave(&scope);
}

static void launch(cuda_context context, cuda_stream stream, atomic_bool *flag)
{
    struct cuda_scope scope;
    cr_assert_eq(cuda_enter(context, &scope), 0);
    cr_assert_eq(sim_launch(stream, set_true, flag, 0), 0);
    cuda_leave(&scope);
}

static void await(atomic_bool *flag)
{
    for (int i = 0; i < 5000 && !atomic_load(flag); i++)
        usleep(1000);
    cr_assert(atomic_load(flag));
}

static int passes(void *event)
{
    int r = 0;
    for (int i = 0; i < 5000 && (r = t.b->passed(t.unit, event)) == 0; i++)
        usleep(1000);
    return r;
}

Test(cuda_stream, marks_pass_and_are_followed, .timeout = 30)
{
    cuda_context context;
    atomic_bool first = false, second = false;
    void *mark, *another;
    cuda_start();
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cuda_stream a = stream_new(context, CUDA_STREAM_NON_BLOCKING), b = stream_new(context, CUDA_STREAM_NON_BLOCKING);
    cr_assert_eq(t.b->record(t.unit, NULL, &mark), 0, "%s", stub.sentence);
    cr_assert_eq(passes(mark), 1);
    t.b->forget(t.unit, mark);
    sim_hold(1u << SIM_KERNEL);
    launch(context, a, &first);
    cr_assert_eq(t.b->record(t.unit, a, &mark), 0, "%s", stub.sentence);
    cr_assert_eq(t.b->passed(t.unit, mark), 0);
    cr_assert_eq(t.b->follow(t.unit, b, mark), 0);
    cr_assert_eq(t.b->record(t.unit, b, &another), 0);
    usleep(20000);
    cr_assert_eq(t.b->passed(t.unit, another), 0, "the other stream did not wait");
    t.b->forget(t.unit, mark); /* the stream waits all the same */
    cr_assert_eq(t.b->passed(t.unit, another), 0);
    launch(context, b, &second);
    sim_let_go();
    await(&second);
    cr_assert(atomic_load(&first));
    cr_assert_eq(passes(another), 1);
    t.b->forget(t.unit, another);
    cr_assert_eq(t.b->follow(t.unit, a, NULL), 0);
    stream_end(context, a);
    stream_end(context, b);
    cr_assert_eq(cuda.context_release(0), 0);
    cuda_end();
}

/* The end of our own copies: of those in both streams. */
Test(cuda_stream, copies_are_followed, .timeout = 30)
{
    enum { N = 3 };
    terrace_io io[N], *list[N];
    cuda_context context;
    atomic_bool flag = false;
    void *mark;
    char *host = pages((size_t)N * CHUNK);
    cuda_start();
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cuda_stream stream = stream_new(context, CUDA_STREAM_NON_BLOCKING);
    cr_assert_eq(t.b->pin(t.unit, host, (size_t)N * CHUNK), 0);
    uint64_t base = conform_range((uint64_t)N * CHUNK);
    for (int n = 0; n < 4; n++) { /* in the one stream, in the other, in both */
        static const int copies[] = {1, 1, 2, N};
        int round = copies[n];
        for (int i = 0; i < round; i++) {
            io[i] = conform_io(TERRACE_IO_WRITE, base + (uint64_t)i * CHUNK, host + (size_t)i * CHUNK, CHUNK);
            list[i] = &io[i];
        }
        sim_hold(1u << SIM_COPY);
        atomic_store(&flag, false);
        cr_assert_eq(t.b->submit(t.unit, list, (unsigned)round), round);
        cr_assert_eq(t.b->record(t.unit, TERRACE_STREAM_COPIES, &mark), 0, "%s", stub.sentence);
        cr_assert_eq(t.b->follow(t.unit, stream, mark), 0, "%s", stub.sentence);
        launch(context, stream, &flag);
        usleep(20000);
        cr_assert_eq(t.b->passed(t.unit, mark), 0);
        cr_assert(!atomic_load(&flag));
        sim_let_go();
        await(&flag);
        cr_assert_eq(passes(mark), 1);
        t.b->forget(t.unit, mark);
        conform_collect(io, (unsigned)round);
    }
    stream_end(context, stream);
    t.b->unpin(t.unit, host, (size_t)N * CHUNK);
    t.b->release(t.unit, base, (uint64_t)N * CHUNK);
    cr_assert_eq(cuda.context_release(0), 0);
    cuda_end();
}

Test(cuda_stream, marks_are_used_again)
{
    void *mark[200];
    cuda_start();
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(t.b->record(t.unit, NULL, &mark[0]), 0);
        t.b->forget(t.unit, mark[0]);
    }
    cr_assert_leq(sim_calls("cuEventCreate"), 8);
    for (int i = 0; i < 200; i++)
        cr_assert_eq(t.b->record(t.unit, NULL, &mark[i]), 0);
    for (int i = 0; i < 200; i++)
        t.b->forget(t.unit, mark[i]);
    cr_assert_leq(counted().events, 68);
    cuda_end();
}

Test(cuda_stream, what_is_none_is_refused)
{
    void *mark = &mark;
    static uint64_t nothing[64];
    cuda_start();
    cr_assert_eq(t.b->record(t.unit, nothing, &mark), -TERRACE_EINVAL, "%s", stub.sentence);
    cr_assert_eq(mark, &mark);
    cr_assert_not_null(strstr(stub.sentence, "primary context"), "%s", stub.sentence);
    cr_assert_eq(t.b->follow(t.unit, nothing, NULL), -TERRACE_EINVAL);
    sim_forget_misuses(); /* the driver may find it one */
    cuda_end();
}

unsigned cuStreamBeginCapture_v2(cuda_stream stream, unsigned mode);
unsigned cuStreamEndCapture(cuda_stream stream, void **graph);
unsigned cuGraphDestroy(void *graph);

enum { EVERY_THREAD = 0 }; /* which a capture forbids what could spoil it */

Test(cuda_stream, a_captured_one_is_refused, .timeout = 30)
{
    cuda_context context;
    void *mark = NULL, *graph;
    cuda_start();
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cr_assert_eq(cuda.context_set(context), 0);
    cuda_stream stream = stream_new(context, 0);
    cr_assert_eq(cuStreamBeginCapture_v2(stream, EVERY_THREAD), 0);
    cr_assert_eq(t.b->record(t.unit, stream, &mark), -TERRACE_EBUSY);
    cr_assert(strstr(stub.sentence, "acquire before the capture begins") &&
              strstr(stub.sentence, "TERRACE_ATTR_UNMOVABLE"), "%s", stub.sentence);
    cr_assert_eq(t.b->follow(t.unit, stream, NULL), -TERRACE_EBUSY);
    cr_assert_eq(cuStreamEndCapture(stream, &graph), 0, "the capture was spoilt");
    cr_assert_eq(cuGraphDestroy(graph), 0);
    cr_assert_eq(cuStreamBeginCapture_v2(stream, EVERY_THREAD), 0);
    cr_assert_eq(t.b->record(t.unit, NULL, &mark), -TERRACE_EBUSY, "the default stream would take part");
    if (cuStreamEndCapture(stream, &graph) == 0)
        cr_assert_eq(cuGraphDestroy(graph), 0);
    cr_assert_eq(t.b->record(t.unit, stream, &mark), 0, "%s", stub.sentence);
    cr_assert_eq(passes(mark), 1);
    t.b->forget(t.unit, mark);
    stream_end(context, stream);
    cr_assert_eq(cuda.context_set(NULL), 0);
    cr_assert_eq(cuda.context_release(0), 0);
    cuda_end();
}

/* The tier's calls say that they take no part in it. */
Test(cuda_stream, a_capture_is_not_spoilt, .timeout = 30)
{
    cuda_context context;
    char *host = pages(M);
    void *graph;
    uint64_t room;
    cuda_start();
    if (!cuda.exchange_mode)
        cr_skip("the simulated driver has no cuThreadExchangeStreamCaptureMode");
    uint64_t base = conform_range(GRANULE);
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cr_assert_eq(cuda.context_set(context), 0);
    cuda_stream stream = stream_new(context, CUDA_STREAM_NON_BLOCKING);
    cr_assert_eq(cuStreamBeginCapture_v2(stream, EVERY_THREAD), 0);
    cr_assert_eq(t.b->commit(t.unit, base, GRANULE), 0, "%s", stub.sentence);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, M), 0);
    cr_assert_eq(t.b->pin(t.unit, host, M), 0);
    t.b->unpin(t.unit, host, M);
    cr_assert_eq(t.b->available(t.unit, &room), 0);
    t.b->decommit(t.unit, base, GRANULE);
    t.b->release(t.unit, base, GRANULE);
    cr_assert_eq(cuStreamEndCapture(stream, &graph), 0, "the capture was spoilt");
    cr_assert_eq(cuGraphDestroy(graph), 0);
    stream_end(context, stream);
    cr_assert_eq(cuda.context_set(NULL), 0);
    cr_assert_eq(cuda.context_release(0), 0);
    cuda_end();
}
