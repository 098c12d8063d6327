/* test_cuda.c - the NVIDIA tier by itself, on a simulated driver: the conformance
 * suite; memory and what is behind it; copies, merged, told late or never; streams
 * and captures; whose context is current; the Nth call of everything failing. */
#include <stdatomic.h>

#include "../offload/cuda_driver.h"
#include "conformance.h"
#include "sim_books.h"

#define M UINT64_C(1048576)
enum { GRANULE = 2 << 20, CHUNK = 4 << 20 };

static void without_virtual_memory(void)
{
    sim_set("VMM", 0);
}

CONFORMANCE(cuda, .backend = "cuda", .engine = "CUDA driver API")
CONFORMANCE(cuda_whole, .backend = "cuda", .engine = "CUDA driver API", .prepare = without_virtual_memory)

/* ---- set up and taken down ----------------------------------------------- */

static int cuda_try(int index)
{
    t.b = backend_named("cuda");
    t.info = (terrace_unit_info){.size = sizeof t.info, .node = -1};
    return t.b->open(&stub_host, index, &t.info, &t.unit);
}

static void cuda_start(void)
{
    cr_assert_eq(cuda_try(0), 0, "%s", stub.sentence);
}

static struct sim_counts counted(void)
{
    struct sim_counts c;
    sim_count(&c);
    return c;
}

static void nothing_left(void)
{
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

static void cuda_end(void)
{
    t.b->close(t.unit);
    nothing_left();
}

/* ---- what there is ------------------------------------------------------- */

Test(cuda_info, says_what_it_is)
{
    cuda_start();
    cr_assert_not_null(strstr(t.info.location, "PCI 0"), "%s", t.info.location);
    cr_assert_not_null(strstr(t.info.location, "CUDA 13.0"), "%s", t.info.location);
    cr_assert_not_null(strstr(t.info.engine_reason, "virtual memory management, by granules of 2 MiB"), "%s",
                       t.info.engine_reason);
    cr_assert_not_null(strstr(t.info.engine_reason, "libcufile is "), "%s", t.info.engine_reason);
    cr_assert_not_null(strstr(t.info.capacity_reason, "are free, less"), "%s", t.info.capacity_reason);
    cr_assert_eq(t.info.node, 0);
    cr_assert(t.info.capacity > 128 * M && t.info.capacity < 256 * M, "%llu", (unsigned long long)t.info.capacity);
    cuda_end();
}

Test(cuda_info, others_memory_is_not_counted)
{
    cr_assert(sim_occupy(0, 128 << 20));
    cuda_start();
    cr_assert(t.info.capacity > 64 * M && t.info.capacity < 128 * M, "%llu", (unsigned long long)t.info.capacity);
    cuda_end();
}

Test(cuda_info, several_devices)
{
    sim_set("DEVICES", 3);
    sim_set("HOST_NUMA_ID", -1);
    void *unit[3];
    char location[3][256];
    for (int i = 0; i < 3; i++) {
        cr_assert_eq(cuda_try(i), 0, "%s", stub.sentence);
        unit[i] = t.unit;
        memcpy(location[i], t.info.location, sizeof location[i]);
    }
    cr_assert_eq(t.b->count(&stub_host), 3);
    cr_assert_str_neq(location[0], location[1]);
    cr_assert_str_neq(location[1], location[2]);
    cr_assert_eq(cuda_try(3), -TERRACE_ENOENT);
    cr_assert_not_null(strstr(stub.sentence, "no cuda:3, only 3"), "%s", stub.sentence);
    for (int i = 0; i < 3; i++)
        t.b->close(unit[i]);
    nothing_left();
}

Test(cuda_info, none_is_said)
{
    sim_set("DEVICES", 0);
    t.b = backend_named("cuda");
    cr_assert_eq(t.b->count(&stub_host), 0);
    cr_assert(strstr(stub.sentence, "has no device") && strstr(stub.sentence, "CUDA_ERROR_NO_DEVICE"), "%s",
              stub.sentence);
    cr_assert_eq(cuda_try(0), -TERRACE_ENOENT);
}

/* ---- memory -------------------------------------------------------------- */

/* Bytes of the device's memory that this process has. */
static uint64_t taken(void)
{
    return counted().used[0];
}

Test(cuda_memory, is_there_by_granules_while_a_page_is)
{
    uint64_t base, before;
    cuda_start();
    cr_assert_eq(t.b->reserve(t.unit, 64 * M, 0, &base), 0);
    before = taken();
    cr_assert_eq(t.b->commit(t.unit, base + 3 * M, 2 * M), 0); /* half of granules 1 and 2 */
    cr_assert_eq(taken() - before, 2 * GRANULE);
    cr_assert_eq(t.b->commit(t.unit, base + 2 * M, 4096), 0);
    cr_assert_eq(t.b->commit(t.unit, base + 5 * M, M), 0);
    cr_assert_eq(taken() - before, 2 * GRANULE);
    t.b->decommit(t.unit, base + 3 * M, 2 * M);
    cr_assert_eq(taken() - before, 2 * GRANULE);
    t.b->decommit(t.unit, base + 2 * M, 4096);
    cr_assert_eq(taken() - before, GRANULE);
    t.b->decommit(t.unit, base + 5 * M, M);
    cr_assert_eq(taken(), before);
    t.b->release(t.unit, base, 64 * M);
    cuda_end();
}

Test(cuda_memory, neighbours_in_a_granule_keep_their_bytes)
{
    uint64_t base;
    char *host = pages(M);
    cuda_start();
    cr_assert_eq(t.b->reserve(t.unit, 64 * M, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, M), 0);
    cr_assert_eq(t.b->commit(t.unit, base + M, M), 0);
    pattern_fill(host, M, 1);
    cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + M, host, M), 0);
    t.b->decommit(t.unit, base, M);
    cr_assert_eq(t.b->commit(t.unit, base, M), 0);
    t.b->decommit(t.unit, base, M);
    memset(host, 0, M);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base + M, host, M), 0);
    cr_assert(pattern_is(host, M, 1));
    t.b->decommit(t.unit, base + M, M);
    cr_assert_eq(conform_copy(TERRACE_IO_READ, base + M, host, M), -TERRACE_EINVAL, "nothing is there any more");
    t.b->release(t.unit, base, 64 * M);
    cuda_end();
}

Test(cuda_memory, that_is_not_to_be_had_is_the_devices)
{
    uint64_t base, before;
    cuda_start();
    cr_assert_eq(t.b->reserve(t.unit, 512 * M, 0, &base), 0);
    before = taken();
    cr_assert_eq(t.b->commit(t.unit, base, 512 * M), -TERRACE_EDEVMEM);
    cr_assert(strstr(stub.sentence, "cuda:0 (") && strstr(stub.sentence, "CUDA_ERROR_OUT_OF_MEMORY (") &&
              strstr(stub.sentence, "lower TERRACE_LIMIT_CUDA"), "%s", stub.sentence);
    cr_assert_eq(taken(), before, "what failed left memory behind");
    cr_assert_eq(t.b->commit(t.unit, base, 4 * M), 0);
    uint64_t room;
    cr_assert_eq(t.b->available(t.unit, &room), 0);
    cr_assert(sim_occupy(0, (int64_t)room));
    cr_assert_eq(t.b->available(t.unit, &room), 0);
    cr_assert_lt(room, 2 * M);
    cr_assert_eq(t.b->commit(t.unit, base + 2 * M, 4 * M), -TERRACE_EDEVMEM);
    cr_assert_eq(taken() - before, 4 * M, "it was half there, and has to stay so");
    t.b->release(t.unit, base, 512 * M);
    cr_assert_eq(taken(), before);
    cuda_end();
}

Test(cuda_memory, the_host_helps_where_it_may)
{
    uint64_t base, room;
    char *host = pages(M);
    stub.cuda_host_memory = "0.0625G";
    cuda_start();
    cr_assert_not_null(strstr(t.info.engine_reason, "comes from node 0"), "%s", t.info.engine_reason);
    cr_assert_not_null(strstr(t.info.capacity_reason, "TERRACE_CUDA_HOST_MEMORY"), "%s", t.info.capacity_reason);
    uint64_t device = (t.info.capacity - 64 * M), before = taken();
    cr_assert_eq(t.b->reserve(t.unit, 512 * M, 0, &base), 0);
    cr_assert_eq(t.b->commit(t.unit, base, t.info.capacity), 0, "%s", stub.sentence);
    cr_assert_eq(taken() - before, device, "the margin stays free");
    cr_assert_eq(t.b->available(t.unit, &room), 0);
    cr_assert_lt(room, GRANULE);
    cr_assert_eq(t.b->commit(t.unit, base + 400 * M, GRANULE), -TERRACE_EDEVMEM);
    for (uint64_t at = 0; at < t.info.capacity; at += 16 * M) {
        pattern_fill(host, M, at);
        cr_assert_eq(conform_copy(TERRACE_IO_WRITE, base + at, host, M), 0);
    }
    for (uint64_t at = 0; at < t.info.capacity; at += 16 * M) {
        cr_assert_eq(conform_copy(TERRACE_IO_READ, base + at, host, M), 0);
        cr_assert(pattern_is(host, M, at));
    }
    t.b->decommit(t.unit, base, t.info.capacity);
    cr_assert_eq(taken(), before);
    t.b->release(t.unit, base, 512 * M);
    cuda_end();
}

Test(cuda_memory, the_host_cannot_help_everywhere)
{
    stub.cuda_host_memory = "64M";
    sim_set("HOST_NUMA_VMM", 0);
    cuda_start();
    cr_assert_not_null(strstr(stub.logged, "TERRACE_CUDA_HOST_MEMORY=64M"), "%s", stub.logged);
    cr_assert_not_null(strstr(t.info.engine_reason, "no host memory"), "%s", t.info.engine_reason);
    cr_assert_lt(t.info.capacity, 256 * M);
    cuda_end();
}

static void is_whole(const char *why)
{
    uint64_t base, before;
    cuda_start();
    cr_assert(t.info.flags & TERRACE_UNIT_WHOLE);
    cr_assert_not_null(strstr(t.info.engine_reason, why), "%s", t.info.engine_reason);
    before = taken();
    cr_assert_eq(t.b->reserve(t.unit, 128 * M, 0, &base), 0);
    uint64_t all = taken() - before;
    cr_assert(all >= 128 * M && all <= 130 * M, "%llu", (unsigned long long)all);
    cr_assert_eq(t.b->commit(t.unit, base + 4096, 64 * M), 0);
    cr_assert_eq(taken() - before, all);
    uint64_t other = 42;
    cr_assert_eq(t.b->reserve(t.unit, 256 * M, 0, &other), -TERRACE_EDEVMEM);
    cr_assert_eq(other, 42);
    t.b->release(t.unit, base, 128 * M);
    cr_assert_eq(taken(), before);
    cuda_end();
}

Test(cuda_memory, without_virtual_memory_on_the_device)
{
    sim_set("VMM", 0);
    is_whole("the device has none");
}

Test(cuda_memory, without_virtual_memory_in_the_driver)
{
    char why[300];
    cr_assert_eq(cuda_load(why, sizeof why), 1, "%s", why);
    cuda.set_access = NULL;
    is_whole("the driver has no cuMemSetAccess");
}

/* ---- registered host memory ---------------------------------------------- */

Test(cuda_pin, is_shared_by_devices)
{
    sim_set("DEVICES", 2);
    char *host = pages(4 * M);
    void *unit[2];
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(cuda_try(i), 0, "%s", stub.sentence);
        unit[i] = t.unit;
        cr_assert_eq(t.b->pin(t.unit, host, 2 * M), 0);
    }
    cr_assert_eq(counted().pinned, 2 * M);
    t.b->unpin(unit[0], host, 2 * M);
    cr_assert_eq(counted().pinned, 2 * M);
    t.b->unpin(unit[1], host, 2 * M);
    cr_assert_eq(counted().pinned, 0);
    t.b->close(unit[0]);
    t.b->close(unit[1]);
    nothing_left();
}

Test(cuda_pin, by_somebody_else_is_refused)
{
    char *host = pages(4 * M);
    cuda_start();
    struct cuda_scope scope;
    cuda_context context;
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cr_assert_eq(cuda_enter(context, &scope), 0);
    cr_assert_eq(cuda.host_register(host, 2 * M, 0), 0);
    cr_assert_eq(t.b->pin(t.unit, host, 4 * M), -TERRACE_ENOTSUP);
    t.b->unpin(t.unit, host, 4 * M);
    cr_assert_eq(counted().pinned, 2 * M);
    cr_assert_eq(cuda.host_unregister(host), 0);
    cuda_leave(&scope);
    cr_assert_eq(cuda.context_release(0), 0);
    cuda_end();
}

Test(cuda_pin, past_the_limit_is_refused)
{
    char *host = pages(4 * M);
    sim_set("PINNED", M);
    cuda_start();
    cr_assert_eq(t.b->pin(t.unit, host, 4 * M), -TERRACE_ENOMEM);
    cuda_end();
}

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

Test(cuda_stream, marks_are_used_again)
{
    void *mark[200];
    cuda_start();
    for (int i = 0; i < 1000; i++) {
        cr_assert_eq(t.b->record(t.unit, NULL, &mark[0]), 0);
        t.b->forget(t.unit, mark[0]);
    }
    cr_assert_leq(sim_calls("cuEventCreate"), 4);
    for (int i = 0; i < 200; i++)
        cr_assert_eq(t.b->record(t.unit, NULL, &mark[i]), 0);
    for (int i = 0; i < 200; i++)
        t.b->forget(t.unit, mark[i]);
    cr_assert_leq(counted().events, 64);
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
