/* test_cuda.c - the NVIDIA tier by itself, on a simulated driver: the conformance
 * suite, what there is, memory and what is behind it, registered host memory. */
#include "cuda_cases.h"

static void without_virtual_memory(void)
{
    sim_set("VMM", 0);
}

CONFORMANCE(cuda, .backend = "cuda", .engine = "CUDA driver API")
CONFORMANCE(cuda_whole, .backend = "cuda", .engine = "CUDA driver API", .prepare = without_virtual_memory)

/* ---- between devices ------------------------------------------------------ */

static void peers(void)
{
    sim_set("DEVICES", 2);
    t.b = backend_named("cuda");
    for (int i = 0; i < 2; i++) {
        conform_begin(i);
        conform_peers();
        cr_assert_null(t.skipped, "%s", t.skipped);
        conform_end();
    }
    nothing_left();
}

Test(cuda_peers, of_two_devices)
{
    peers();
}

Test(cuda_peers, of_two_devices_whose_memory_is_not_mapped)
{
    without_virtual_memory();
    peers();
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
    }
    uint64_t before = counted().pinned;
    for (int i = 0; i < 2; i++)
        cr_assert_eq(t.b->pin(unit[i], host, 2 * M), 0);
    cr_assert_eq(counted().pinned, before + 2 * M);
    t.b->unpin(unit[0], host, 2 * M);
    cr_assert_eq(counted().pinned, before + 2 * M);
    t.b->unpin(unit[1], host, 2 * M);
    cr_assert_eq(counted().pinned, before);
    t.b->close(unit[0]);
    t.b->close(unit[1]);
    nothing_left();
}

Test(cuda_pin, by_somebody_else_is_refused)
{
    char *host = pages(4 * M);
    cuda_start();
    uint64_t before = counted().pinned;
    struct cuda_scope scope;
    cuda_context context;
    cr_assert_eq(cuda.context_retain(&context, 0), 0);
    cr_assert_eq(cuda_enter(context, &scope), 0);
    cr_assert_eq(cuda.host_register(host, 2 * M, 0), 0);
    cr_assert_eq(t.b->pin(t.unit, host, 4 * M), -TERRACE_ENOTSUP);
    t.b->unpin(t.unit, host, 4 * M);
    cr_assert_eq(counted().pinned, before + 2 * M);
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
