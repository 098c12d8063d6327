/* runtime_tier_cases.h - tensors on the tier of a vendor's runtime, through the public
 * API, on a simulated one: they spill to the host and the disk and come back whole,
 * kernels in streams find what was there before, random operations agree with plain
 * memory; and what people are told.
 *
 * A program of a kind's says before it includes this what runtime_cases.h wants to know. */
#ifndef TERRACE_TESTS_RUNTIME_TIER_CASES_H
#define TERRACE_TESTS_RUNTIME_TIER_CASES_H

#include <stdint.h>
#include <stdio.h>

#include "sim_books.h"

static void *seen(void *at)
{
    void *there = sim_memory((uintptr_t)at, 1);
    return there ? there : at;
}

#define RANDOM_DEVICE
#include "test_random.c"

enum { SIZE = MIB };
#define ALL KIND ":0,numa:0,simdisk:0"

static struct {
    terrace *m;
    terrace_tier dev, host, disk;
    atomic_uint wrong, unmapped, ran;
} d;

static void open_device(size_t device, size_t host, const char *more)
{
    char conf[256];
    prepare_kind();
    snprintf(conf, sizeof conf, "limit_" KIND "=%zu;%s", device, more ? more : "");
    d.m = open_with(ALL, host, conf);
    assert_ok(terrace_tier_find(d.m, KIND ":0", &d.dev));
    d.host = host_of(d.m);
    d.disk = disk_of(d.m);
}

static void nothing_left(void)
{
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
    cr_assert_eq(last_error(), 0, "an error is left for others to find");
}

static void close_device(void)
{
    terrace_close(d.m);
    nothing_left();
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

/* ---- tensors ------------------------------------------------------------- */

Test(runtime_tier, there_and_back, .timeout = 60)
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

/* Tensors of many sizes, several times what the device and the host hold. */
Test(runtime_tier, more_than_device_and_host_hold, .timeout = 120)
{
    enum { N = 60 };
    static const size_t sizes[] = {3 * MIB + 4096, MIB, 2 * MIB, 5 * MIB, 300 * KIB, 7000, 64 * KIB + 1};
    terrace_tensor *t[N];
    size_t bytes[N];
    open_device(16 * MIB, 24 * MIB, NULL);
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

Test(runtime_tier, demoted_to_the_disk, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    device_write(t, SIZE, 3, TERRACE_OVERWRITE);
    assert_ok(terrace_demote(t, d.disk));
    assert_ok(terrace_wait(t));
    eventually(tier_stats_of(d.m, d.dev).tensors == 0);
    device_expect(t, SIZE, 3);
    close_device();
}

Test(runtime_tier, a_lost_device_is_an_error, .timeout = 60)
{
    void *p;
    open_device(8 * MIB, 8 * MIB, NULL);
    terrace_tensor *a = tensor_of(d.m, SIZE, "a"), *b = tensor_of(d.m, SIZE, "b");
    write_pattern(a, d.host, SIZE, 5);
    write_pattern(b, d.host, SIZE, 6);
    sim_lose(0, 1, LOST);
    assert_fails(terrace_acquire(a, d.dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL), TERRACE_EDEVICE);
    cr_assert_not_null(strstr(terrace_last_error(), LOST_NAME), "%s", terrace_last_error());
    expect_pattern(a, d.host, SIZE, 5);
    expect_pattern(b, d.host, SIZE, 6);
    terrace_close(d.m);
}

Test(runtime_tier, two_devices_are_two_tiers, .timeout = 60)
{
    terrace_tier device[2];
    sim_set("DEVICES", 2);
    prepare_kind();
    d.m = open_with(KIND ",numa:0,simdisk:0", 8 * MIB, "limit_device=64M");
    cr_assert_eq(tier_stats_of(d.m, 0).limit + tier_stats_of(d.m, 1).limit, 64 * MIB);
    assert_ok(terrace_tier_find(d.m, KIND ":0", &device[0]));
    assert_ok(terrace_tier_find(d.m, KIND ":1", &device[1]));
    terrace_tensor *t = tensor_of(d.m, SIZE, "t");
    for (uint64_t i = 1; i < 7; i++) {
        d.dev = device[i % 2];
        device_write(t, SIZE, i, TERRACE_OVERWRITE);
        d.dev = device[(i + 1) % 2];
        device_expect(t, SIZE, i);
    }
    close_device();
}

/* ---- kernels in streams -------------------------------------------------- */

enum { TENSORS = 24, USES = 4000 / SLOWER };

static struct used {
    terrace_tensor *tensor;
    size_t bytes;
    uint64_t seed; /* of the last kernel's bytes; 0: none yet */
} used[TENSORS];

struct kernel {
    uint64_t address;
    size_t bytes;
    uint64_t before, after; /* seeds; 0: not looked at, not written */
};

static void kernel_run(void *arg)
{
    struct kernel *k = arg;
    void *p = sim_memory(k->address, k->bytes);
    if (!p)
        atomic_fetch_add(&d.unmapped, 1);
    else if (k->before && !pattern_is(p, k->bytes, k->before))
        atomic_fetch_add(&d.wrong, 1);
    if (p && k->after)
        pattern_fill(p, k->bytes, k->after);
    atomic_fetch_add(&d.ran, 1);
    free(k);
}

static void kernel_start(struct used *s, void *stream, struct worker *k)
{
    bool writes = s->seed == 0 || draw(k, 3) == 0, all = s->seed == 0 || draw(k, 2);
    unsigned mode = !writes ? TERRACE_READ : all ? TERRACE_OVERWRITE : TERRACE_WRITE;
    struct kernel *kernel = malloc(sizeof *kernel);
    void *p;
    assert_ok(terrace_acquire(s->tensor, d.dev, mode | TERRACE_WAIT, stream, &p, NULL));
    *kernel = (struct kernel){(uintptr_t)p, s->bytes, mode == TERRACE_OVERWRITE ? 0 : s->seed,
                              writes ? 1 + draw(k, 1000000) : 0};
    s->seed = writes ? kernel->after : s->seed;
    cr_assert_eq(sim_launch(stream, kernel_run, kernel, draw(k, 100000)), 0);
    assert_ok(terrace_release(s->tensor, p, stream));
}

Test(runtime_tier, kernels_find_what_was_there, .timeout = 120)
{
    void *stream[3] = {NULL};
    struct worker k = {.random = 4711};
    open_device(6 * MIB, 12 * MIB, NULL);
    stream[1] = stream_new();
    stream[2] = stream_new();
    for (size_t i = 0; i < TENSORS; i++) {
        used[i].bytes = (i % 4 + 1) * 200 * KIB + i * 8;
        used[i].tensor = tensor_of(d.m, used[i].bytes, "t");
    }
    for (int i = 0; i < USES; i++)
        kernel_start(&used[draw(&k, TENSORS)], stream[draw(&k, 3)], &k);
    for (size_t i = 0; i < TENSORS; i++)
        if (used[i].seed)
            expect_pattern(used[i].tensor, d.host, used[i].bytes, used[i].seed);
    cr_assert_eq(d.ran, USES);
    cr_assert_eq(d.unmapped, 0, "memory was taken away under %u kernels", d.unmapped);
    cr_assert_eq(d.wrong, 0, "%u of %u kernels did not find what was there before", d.wrong, d.ran);
    cr_assert_gt(stats_of(d.m).evictions, TENSORS);
    stream_end(stream[1]);
    stream_end(stream[2]);
    close_device();
}

/* ---- random operations --------------------------------------------------- */

static void run_on_device(const char *tiers, const char *conf, unsigned long operations)
{
    prepare_kind();
    run(tiers, conf, operations);
    nothing_left();
}

Test(runtime_random, device, .timeout = 240) { run_on_device(ALL, "log=error", 60000); }

Test(runtime_random, device_and_nodes, .timeout = 240)
{
    run_on_device(KIND ":0,numa:0,simnode:0,simdisk:0", "log=error;encrypt=1", 40000);
}

Test(runtime_random, device_and_failing_disk, .timeout = 240)
{
    w.faults = true;
    run_on_device(ALL, "log=off", 30000);
}

/* ---- what people are told ------------------------------------------------ */

Test(runtime_told, that_it_has_no_pointers_that_stay, .timeout = 60)
{
    open_device(8 * MIB, 8 * MIB, NULL);
    cr_assert_null(terrace_malloc(d.m, MIB, d.dev, NULL));
    cr_assert_not_null(strstr(terrace_last_error(), "use tensors and terrace_acquire() there"), "%s", terrace_last_error());
    assert_ok(terrace_safepoint(d.m, d.dev, NULL));
    close_device();
}

Test(runtime_told, limits_are_its_own, .timeout = 60)
{
    prepare_kind();
    d.m = open_with(ALL, 8 * MIB, NULL);
    uint64_t all = tier_stats_of(d.m, 0).limit;
    cr_assert_not_null(strstr(tier_stats_of(d.m, 0).limit_reason, "are free, less"));
    terrace_close(d.m);
    d.m = open_with(ALL, 8 * MIB, "limit_" KIND "=50%");
    terrace_tier_statistics half = tier_stats_of(d.m, 0);
    cr_assert(half.limit <= all * 51 / 100 && half.limit > all * 49 / 100, "%llu", (unsigned long long)half.limit);
    cr_assert_not_null(strstr(half.limit_reason, LIMIT " ("), "%s", half.limit_reason);
    terrace_close(d.m);
    d.m = open_with(ALL, 8 * MIB, "limit_" KIND "=64M;limit_" KIND "_0=32M");
    cr_assert_eq(tier_stats_of(d.m, 0).limit, 32 * MIB);
    close_device();
}

Test(runtime_told, that_is_absent_says_why, .timeout = 60)
{
    terrace *m = NULL;
    sim_set("DEVICES", 0);
    prepare_kind();
    assert_fails(terrace_open(&m, "tiers=" KIND ":0,numa:0"), TERRACE_ENOENT);
    cr_assert(strstr(terrace_last_error(), "no tier '" KIND ":0' here; of those named there are numa:0") &&
              strstr(terrace_last_error(), KIND ": the " API " runtime has no device"), "%s", terrace_last_error());
}

Test(runtime_told, a_device_that_is_not_as_it_should_be_stays_off, .timeout = 60)
{
    terrace *m = NULL;
    sim_set("CORRUPT", 1);
    prepare_kind();
    assert_fails(terrace_open(&m, "tiers=" KIND ":0,numa:0"), TERRACE_EDEVICE);
    cr_assert(strstr(terrace_last_error(), KIND ":0 (") && strstr(terrace_last_error(), "stays off: tried out"), "%s",
              terrace_last_error());
    assert_ok(terrace_open(&m, "tiers=numa:0"));
    terrace_close(m);
    nothing_left();
}

Test(runtime_told, that_is_not_wanted_is_not_asked_for, .timeout = 60)
{
    terrace *m = NULL;
    prepare_kind();
    assert_ok(terrace_open(&m, "tiers=numa:0,simdisk:0"));
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++)
        cr_assert_eq(sim_calls(symbols[i]), 0, "%s", symbols[i]);
    terrace_close(m);
}

#endif
