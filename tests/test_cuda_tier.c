/* test_cuda_tier.c - tensors on the NVIDIA tier, through the public API, on a
 * simulated driver: they spill to the host and the disk and come back whole,
 * whatever memory the device has; and what people are told of it. */
#include <stdatomic.h>

#include "../offload/cuda_driver.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { SIZE = MIB };
#define ALL "cuda:0,numa:0,simdisk:0"

static struct {
    terrace *m;
    terrace_tier dev, host, disk;
} d;

static void open_device(size_t device, size_t host, const char *more)
{
    char conf[256];
    snprintf(conf, sizeof conf, "limit_cuda=%zu;%s", device, more ? more : "");
    d.m = open_with(ALL, host, conf);
    assert_ok(terrace_tier_find(d.m, "cuda:0", &d.dev));
    d.host = host_of(d.m);
    d.disk = disk_of(d.m);
}

static void close_device(void)
{
    terrace_close(d.m);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

/* What a kernel on the device would do. */
static void device_write(terrace_tensor *t, size_t bytes, uint64_t seed, unsigned mode)
{
    void *p, *there = malloc(bytes);
    cr_assert_not_null(there);
    pattern_fill(there, bytes, seed);
    assert_ok(terrace_acquire(t, d.dev, mode, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert(sim_write((uintptr_t)p, there, bytes), "the device cannot use what was acquired");
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    free(there);
}

static void device_expect(terrace_tensor *t, size_t bytes, uint64_t seed)
{
    void *p, *there = malloc(bytes);
    cr_assert_not_null(there);
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert(sim_read(there, (uintptr_t)p, bytes), "the device cannot use what was acquired");
    cr_assert(pattern_is(there, bytes, seed), "not the bytes of seed %llu", (unsigned long long)seed);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    free(there);
}

Test(cuda_tier, there_and_back, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    write_pattern(t, d.host, SIZE, 1);
    device_expect(t, SIZE, 1);
    device_write(t, SIZE, 2, TERRACE_WRITE);
    expect_pattern(t, d.host, SIZE, 2);
    device_expect(t, SIZE, 2);
    close_device();
}

Test(cuda_tier, what_was_never_written_is_zeros, .timeout = 60)
{
    static const char zeros[SIZE];
    static char there[SIZE];
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    void *p;
    assert_ok(terrace_acquire(t, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    memset(there, 1, SIZE);
    cr_assert(sim_read(there, (uintptr_t)p, SIZE));
    cr_assert_eq(memcmp(there, zeros, SIZE), 0);
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    close_device();
}

/* Tensors of many sizes, several times what the device and the host hold. */
static void spill(const char *more)
{
    enum { N = 60 };
    static const size_t sizes[] = {3 * MIB + 4096, MIB, 2 * MIB, 5 * MIB, 300 * KIB, 7000, 64 * KIB + 1};
    terrace_tensor *t[N];
    size_t bytes[N];
    open_device(16 * MIB, 24 * MIB, more);
    for (int i = 0; i < N; i++) {
        bytes[i] = sizes[i % 7];
        t[i] = tensor_of(d.m, bytes[i], "t");
        device_write(t[i], bytes[i], (uint64_t)i, TERRACE_OVERWRITE);
    }
    for (int round = 1; round < 4; round++)
        for (int i = 0; i < N; i++) {
            device_expect(t[i], bytes[i], (uint64_t)(i + (round - 1) * N));
            device_write(t[i], bytes[i], (uint64_t)(i + round * N), TERRACE_WRITE);
        }
    cr_assert_leq(tier_stats_of(d.m, d.dev).peak, 16 * MIB);
    cr_assert_leq(tier_stats_of(d.m, 1).peak, 24 * MIB);
    cr_assert_gt(tier_stats_of(d.m, 2).in_bytes, 0);
    for (int i = 0; i < N; i++)
        expect_pattern(t[i], d.host, bytes[i], (uint64_t)(i + 3 * N));
    close_device();
}

Test(cuda_tier, more_than_device_and_host_hold, .timeout = 120) { spill(NULL); }
Test(cuda_tier, more_than_they_hold_encrypted, .timeout = 120) { spill("encrypt=1"); }

Test(cuda_tier, more_than_they_hold_without_virtual_memory, .timeout = 120)
{
    sim_set("VMM", 0);
    spill(NULL);
}

Test(cuda_tier, without_virtual_memory_the_budget_is_taken_once, .timeout = 60)
{
    struct sim_counts c;
    sim_set("VMM", 0);
    open_device(100 * MIB, 8 * MIB, NULL);
    sim_count(&c);
    cr_assert(c.used[0] >= 100 * MIB && c.used[0] <= 102 * MIB, "%llu", (unsigned long long)c.used[0]);
    close_device();
}

Test(cuda_tier, demoted_to_the_disk, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    device_write(t, SIZE, 3, TERRACE_OVERWRITE);
    assert_ok(terrace_demote(t, d.disk));
    assert_ok(terrace_wait(t));
    eventually(tier_stats_of(d.m, d.dev).tensors == 0);
    push_down(t, d.m);
    eventually(tier_stats_of(d.m, 1).tensors == 0);
    device_expect(t, SIZE, 3);
    close_device();
}

Test(cuda_tier, demoted_to_the_host, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    device_write(t, SIZE, 4, TERRACE_OVERWRITE);
    assert_ok(terrace_demote(t, d.host));
    assert_ok(terrace_wait(t));
    eventually(tier_stats_of(d.m, d.dev).tensors == 0 && tier_stats_of(d.m, 1).tensors == 1);
    expect_pattern(t, d.host, SIZE, 4);
    device_expect(t, SIZE, 4);
    close_device();
}

/* Others have taken what the budget counts on. */
Test(cuda_tier, others_take_the_devices_memory, .timeout = 120)
{
    enum { N = 24 };
    terrace_tensor *t[N];
    open_device(64 * MIB, 64 * MIB, NULL);
    cr_assert(sim_occupy(0, 240 * MIB));
    for (int i = 0; i < N; i++) {
        t[i] = tensor_of(d.m, 2 * MIB, "t");
        device_write(t[i], 2 * MIB, (uint64_t)i, TERRACE_OVERWRITE);
    }
    for (int i = 0; i < N; i++)
        device_expect(t[i], 2 * MIB, (uint64_t)i);
    cr_assert_leq(tier_stats_of(d.m, d.dev).used, 16 * MIB);
    terrace_tensor *large = tensor_of(d.m, 32 * MIB, "large");
    void *p;
    int r = terrace_acquire(large, d.dev, TERRACE_OVERWRITE, TERRACE_HOST_SYNC, &p, NULL);
    cr_assert_eq(r, -TERRACE_EDEVMEM, "%d: %s", r, terrace_last_error());
    cr_assert_not_null(strstr(terrace_last_error(), "cuda:0"), "%s", terrace_last_error());
    close_device();
}

Test(cuda_tier, a_lost_device_is_an_error, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *a = tensor_of(d.m, SIZE, "a"), *b = tensor_of(d.m, SIZE, "b");
    void *p;
    write_pattern(a, d.host, SIZE, 5);
    write_pattern(b, d.host, SIZE, 6);
    sim_lose(0, 1, 700);
    assert_fails(terrace_acquire(a, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EDEVICE);
    cr_assert_not_null(strstr(terrace_last_error(), "CUDA_ERROR_ILLEGAL_ADDRESS"), "%s", terrace_last_error());
    expect_pattern(a, d.host, SIZE, 5);
    expect_pattern(b, d.host, SIZE, 6);
    terrace_close(d.m);
}

/* ---- what people are told ------------------------------------------------ */

Test(cuda_tier, limits_are_its_own, .timeout = 60)
{
    uint64_t all;
    d.m = open_with(ALL, 8 * MIB, NULL);
    all = tier_stats_of(d.m, 0).limit;
    cr_assert_not_null(strstr(tier_stats_of(d.m, 0).limit_reason, "are free, less"));
    terrace_close(d.m);
    d.m = open_with(ALL, 8 * MIB, "limit_cuda=50%");
    terrace_tier_statistics half = tier_stats_of(d.m, 0);
    cr_assert(half.limit <= all * 51 / 100 && half.limit > all * 49 / 100, "%llu", (unsigned long long)half.limit);
    cr_assert_not_null(strstr(half.limit_reason, "TERRACE_LIMIT_CUDA ("), "%s", half.limit_reason);
    terrace_close(d.m);
    d.m = open_with(ALL, 8 * MIB, "limit_cuda=64M;limit_cuda_0=32M");
    cr_assert_eq(tier_stats_of(d.m, 0).limit, 32 * MIB);
    terrace_close(d.m);
}

Test(cuda_tier, two_devices_are_two_tiers, .timeout = 60)
{
    sim_set("DEVICES", 2);
    d.m = open_with("cuda,numa:0,simdisk:0", 8 * MIB, "limit_device=64M");
    cr_assert_str_eq(tier_stats_of(d.m, 1).name, "cuda:1");
    cr_assert_eq(tier_stats_of(d.m, 0).limit + tier_stats_of(d.m, 1).limit, 64 * MIB);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    terrace_tier first, second;
    assert_ok(terrace_tier_find(d.m, "cuda:0", &first));
    assert_ok(terrace_tier_find(d.m, "cuda:1", &second));
    for (uint64_t i = 1; i < 7; i++) {
        d.dev = i % 2 ? first : second;
        device_write(t, SIZE, i, TERRACE_OVERWRITE);
        d.dev = i % 2 ? second : first;
        device_expect(t, SIZE, i);
    }
    close_device();
}

Test(cuda_tier, that_is_absent_says_why, .timeout = 60)
{
    terrace *m = NULL;
    sim_set("DEVICES", 0);
    assert_fails(terrace_open(&m, "tiers=cuda:0,numa:0"), TERRACE_ENOENT);
    cr_assert(strstr(terrace_last_error(), "no tier 'cuda:0' here; of those named there are numa:0") &&
              strstr(terrace_last_error(), "cuda: the NVIDIA driver has no device"), "%s", terrace_last_error());
    assert_ok(terrace_open(&m, NULL));
    cr_assert(strstr(stats_of(m).absent, "cuda: the NVIDIA driver has no device to use: CUDA_ERROR_NO_DEVICE"), "%s",
              stats_of(m).absent);
    terrace_close(m);
}

Test(cuda_tier, that_does_not_open_is_left_out_unless_it_was_named, .timeout = 60)
{
    terrace *m = NULL;
    terrace_tier tier;
    sim_fail("cuDevicePrimaryCtxRetain", 1, 0, 2);
    assert_fails(terrace_open(&m, "tiers=cuda:0,numa:0"), TERRACE_EDEVMEM);
    cr_assert(strstr(terrace_last_error(), "cuda:0 (") && strstr(terrace_last_error(), "TERRACE_TIERS can leave it out"),
              "%s", terrace_last_error());
    assert_ok(terrace_open(&m, "log=off"));
    assert_fails(terrace_tier_find(m, "cuda", &tier), TERRACE_ENOENT);
    assert_ok(terrace_tier_find(m, "numa:0", &tier));
    cr_assert(strstr(stats_of(m).absent, "cuda: cuda:0 (") && strstr(stats_of(m).absent, "CUDA_ERROR_OUT_OF_MEMORY"),
              "%s", stats_of(m).absent);
    terrace_close(m);
    cr_assert_eq(sim_leaks(stderr), 0);
}

/* An error of before stays the thread's last. */
Test(cuda_tier, that_is_not_wanted_is_not_asked_for, .timeout = 60)
{
    terrace *m = NULL;
    char before[200];
    assert_fails(terrace_open(&m, "tiers=none:0"), TERRACE_ENOENT);
    snprintf(before, sizeof before, "%s", terrace_last_error());
    assert_ok(terrace_open(&m, "tiers=numa:0,simdisk:0"));
    cr_assert_eq(sim_calls("cuInit"), 0);
    cr_assert_str_eq(stats_of(m).absent, "");
    cr_assert_str_eq(terrace_last_error(), before);
    terrace_close(m);
}

/* ---- two devices --------------------------------------------------------- */

#define KIND "cuda"
#define PEER_COPY "cuMemcpyPeerAsync"
enum { INVALID = CUDA_INVALID_VALUE };

static void prepare_kind(void)
{
}

/* The tier has the context, too. */
static void device_set(int index)
{
    cuda_device device;
    cuda_context context;
    cr_assert_eq(cuda.device_get(&device, index), CUDA_OK);
    cr_assert_eq(cuda.context_retain(&context, device), CUDA_OK);
    cr_assert_eq(cuda.context_set(context), CUDA_OK);
    cr_assert_eq(cuda.context_release(device), CUDA_OK);
}

#include "peer_cases.h"

Test(peers, memory_that_is_not_mapped, .timeout = 60)
{
    sim_set("VMM", 0);
    open_two("");
    goes(true);
    close_device();
}
