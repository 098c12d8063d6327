/* gpu_cuda.c - the NVIDIA tier on a device that is there: the conformance suite,
 * streams, tensors through the public API, and what memory and copies cost. Run by
 * `make check-gpu`. Without a device all of it fails, saying why there is none. */
#include "../../offload/cuda_driver.h"
#include "../conformance.h"

#define M UINT64_C(1048576)
enum { CHUNK = 4 << 20 };

CONFORMANCE(cuda, .backend = "cuda", .engine = "CUDA driver API")

static void gpu_start(void)
{
    t.b = backend_named("cuda");
    cr_assert_geq(t.b->count(&stub_host), 1, "%s", stub.sentence);
    t.info = (terrace_unit_info){.size = sizeof t.info};
    cr_assert_eq(t.b->open(&stub_host, 0, &t.info, &t.unit), 0, "%s", stub.sentence);
}

Test(gpu, says_what_it_is)
{
    gpu_start();
    printf("%s\n%s: %s\n%s\nnode %d\n", t.info.location, t.info.engine, t.info.engine_reason,
           t.info.capacity_reason, t.info.node);
    cr_assert(!(t.info.flags & TERRACE_UNIT_WHOLE));
    t.b->close(t.unit);
}

/* The default stream, and one of a framework's: of the primary context. */
Test(gpu, marks_of_streams_pass, .timeout = 60)
{
    struct cuda_scope scope;
    cuda_context context;
    cuda_stream stream;
    void *mark;
    gpu_start();
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cr_assert_eq(cuda_enter(context, &scope), 0);
    cr_assert_eq(cuda.stream_create(&stream, CUDA_STREAM_NON_BLOCKING), 0);
    cuda_leave(&scope);
    void *streams[] = {NULL, stream};
    for (int i = 0; i < 2; i++) {
        int r = 0;
        cr_assert_eq(t.b->record(t.unit, streams[i], &mark), 0, "%s", stub.sentence);
        cr_assert_eq(t.b->follow(t.unit, streams[1 - i], mark), 0, "%s", stub.sentence);
        for (int n = 0; n < 5000 && (r = t.b->passed(t.unit, mark)) == 0; n++)
            usleep(1000);
        cr_assert_eq(r, 1, "%s", stub.sentence);
        t.b->forget(t.unit, mark);
    }
    cuda_context now = context;
    cr_assert_eq(cuda.context_get(&now), 0);
    cr_assert_null(now);
    t.b->close(t.unit);
}

/* ---- what it costs ------------------------------------------------------- */

/* Copies `bytes` in pieces with as many in flight as may be; GB/s. */
static double rate(int op, uint64_t base, char *host, uint64_t bytes, size_t piece)
{
    terrace_io io[64], *list[64], *done[64];
    unsigned depth = t.info.io_depth, free_n = depth;
    uint64_t next = 0, back = 0;
    for (unsigned i = 0; i < depth; i++)
        list[i] = &io[i];
    int64_t start = stub_now_ns();
    while (back < bytes) {
        unsigned n = 0;
        for (; n < free_n && next < bytes; n++, next += piece)
            *list[n] = conform_io(op, base + next, host + next, piece);
        cr_assert_eq(t.b->submit(t.unit, list, n), (int)n);
        unsigned rest = free_n - n;
        memmove(list, list + n, rest * sizeof *list);
        int got = t.b->wait(t.unit, done, depth, -1);
        for (int i = 0; i < got; i++) {
            cr_assert_eq(done[i]->result, 0);
            back += done[i]->bytes;
            list[rest++] = done[i];
        }
        free_n = rest;
    }
    return (double)bytes / (double)(stub_now_ns() - start);
}

Test(gpu, rates_of_copies, .timeout = 120)
{
    enum { BYTES = 1 << 30 };
    char *host = pages(BYTES);
    memset(host, 1, BYTES);
    gpu_start();
    uint64_t base = conform_range(BYTES);
    for (int pinned = 0; pinned < 2; pinned++) {
        if (pinned)
            cr_assert_eq(t.b->pin(t.unit, host, BYTES), 0);
        for (size_t piece = 4096; piece <= CHUNK; piece *= 32) {
            uint64_t bytes = piece < 65536 ? 64 * M : BYTES;
            double in = rate(TERRACE_IO_WRITE, base, host, bytes, piece);
            double out = rate(TERRACE_IO_READ, base, host, bytes, piece);
            printf("%s, pieces of %zu KiB: to the device %.2f GB/s, back %.2f GB/s\n",
                   pinned ? "registered" : "pageable", piece >> 10, in, out);
        }
    }
    t.b->unpin(t.unit, host, BYTES);
    t.b->release(t.unit, base, BYTES);
    t.b->close(t.unit);
}

Test(gpu, latency_of_a_copy, .timeout = 60)
{
    enum { N = 1000 };
    char *host = pages(4096);
    gpu_start();
    uint64_t base = conform_range(4096);
    cr_assert_eq(t.b->pin(t.unit, host, 4096), 0);
    int64_t start = stub_now_ns();
    for (int i = 0; i < N; i++)
        cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base, host, 4096), 0);
    printf("a page to the device and word of it: %.1f us\n", (double)(stub_now_ns() - start) / N / 1000);
    t.b->unpin(t.unit, host, 4096);
    t.b->release(t.unit, base, 4096);
    t.b->close(t.unit);
}

Test(gpu, cost_of_memory, .timeout = 60)
{
    uint64_t base, bytes = 1024 * M;
    gpu_start();
    cr_assert_eq(t.b->reserve(t.unit, bytes, 0, &base), 0);
    int64_t start = stub_now_ns();
    cr_assert_eq(t.b->commit(t.unit, base, bytes), 0, "%s", stub.sentence);
    int64_t between = stub_now_ns();
    t.b->decommit(t.unit, base, bytes);
    int64_t end = stub_now_ns();
    printf("committing %.1f us, decommitting %.1f us for a granule of %zu KiB\n",
           (double)(between - start) / 1000 * (double)t.info.granule / (double)bytes,
           (double)(end - between) / 1000 * (double)t.info.granule / (double)bytes, t.info.granule >> 10);
    t.b->release(t.unit, base, bytes);
    t.b->close(t.unit);
}
