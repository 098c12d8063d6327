/* test_cuda_registered.c - memory of the host that the NVIDIA tier's copies come from and
 * go to again and again is registered with the driver, once, and only as long as it is
 * there; on a simulated driver. */
#include <linux/capability.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#include "../offload/cuda_driver.h"
#include "manager.h"
#include "sim_books.h"
#include "simdisk.h"

enum { GRANULE = 2 * MIB };

static struct {
    terrace *m;
    terrace_tier dev, host;
    uint64_t before; /* registered bytes when the manager had just been opened */
} d;

static struct sim_counts counted(void)
{
    struct sim_counts c;
    sim_count(&c);
    return c;
}

static void open_device(const char *tiers, size_t host)
{
    d.m = open_with(tiers, host, "limit_cuda=64M");
    assert_ok(terrace_tier_find(d.m, "cuda:0", &d.dev));
    d.host = host_of(d.m);
    d.before = counted().pinned;
}

static void close_device(void)
{
    terrace_close(d.m);
    cr_assert_eq(sim_leaks(stderr), 0);
    cr_assert_null(sim_complaint(), "%s", sim_complaint());
}

static uint64_t registered(void)
{
    terrace_tier numa;
    assert_ok(terrace_tier_find(d.m, "numa:0", &numa));
    return tier_stats_of(d.m, numa).registered;
}

/* Writes on the host and has the device read it. */
static void use(terrace_tensor *t, size_t bytes, terrace_tier dev, uint64_t seed)
{
    void *p, *there = malloc(bytes);
    write_pattern(t, d.host, bytes, seed);
    assert_ok(terrace_acquire(t, dev, TERRACE_READ, TERRACE_HOST_SYNC, &p, NULL));
    cr_assert(sim_read(there, (uintptr_t)p, bytes));
    cr_assert(pattern_is(there, bytes, seed));
    assert_ok(terrace_release(t, p, TERRACE_HOST_SYNC));
    free(there);
}

#define ALL "cuda:0,numa:0,simdisk:0"

Test(cuda_registered, what_is_used_often_is_registered_once, .timeout = 60)
{
    open_device(ALL, 64 * MIB);
    terrace_tensor *t = tensor_of(d.m, 3 * GRANULE, "t");
    use(t, 3 * GRANULE, d.dev, 1);
    usleep(50000);
    cr_assert_eq(registered(), 0, "once is not often");
    use(t, 3 * GRANULE, d.dev, 2);
    eventually(registered() == 3 * GRANULE);
    cr_assert_eq(counted().pinned, d.before + 3 * GRANULE);
    unsigned calls = sim_calls("cuMemHostRegister_v2");
    uint64_t pageable = counted().pageable_copies;
    for (uint64_t i = 3; i < 10; i++)
        use(t, 3 * GRANULE, d.dev, i);
    cr_assert_eq(sim_calls("cuMemHostRegister_v2"), calls, "it is registered again");
    cr_assert_eq(counted().pageable_copies, pageable, "copies of it are still slow ones");
    close_device();
}

Test(cuda_registered, until_the_memory_is_given_back, .timeout = 60)
{
    open_device(ALL, 64 * MIB);
    terrace_tensor *t = tensor_of(d.m, 4 * GRANULE, "t");
    use(t, 4 * GRANULE, d.dev, 1);
    use(t, 4 * GRANULE, d.dev, 2);
    eventually(registered() == 4 * GRANULE);
    terrace_tensor_destroy(t);
    cr_assert_eq(registered(), 4 * GRANULE, "whoever has the memory");
    for (int i = 0; i < 4 && registered(); i++) {
        usleep(1050000);
        assert_ok(terrace_step(d.m));
    }
    cr_assert_eq(registered(), 0);
    cr_assert_eq(counted().pinned, d.before);
    close_device();
}

/* Others take over parts of the memory, and give parts of it back. */
Test(cuda_registered, copies_in_parts, .timeout = 120)
{
    enum { N = 12, ROUNDS = 60 };
    terrace_tensor *t[N];
    size_t bytes[N];
    unsigned random = 3;
    open_device(ALL, 24 * MIB);
    for (int i = 0; i < N; i++) {
        bytes[i] = (size_t)(i + 1) * 700 * KIB + (i % 3 == 0 ? 4096 : 8);
        t[i] = tensor_of(d.m, bytes[i], "t");
    }
    for (int round = 0; round < ROUNDS; round++) {
        random = random * 1664525 + 1013904223;
        int i = (random >> 16) % N;
        use(t[i], bytes[i], d.dev, random);
        if ((random >> 28) == 0) {
            terrace_tensor_destroy(t[i]);
            t[i] = tensor_of(d.m, bytes[i], "t");
        }
        usleep(random >> 20 & 0xfff);
    }
    cr_assert_gt(registered(), 0);
    close_device();
}

/* The driver takes no more than so much. */
Test(cuda_registered, refused_by_the_driver, .timeout = 60)
{
    open_device(ALL, 64 * MIB);
    terrace_tensor *t = tensor_of(d.m, 4 * GRANULE, "t");
    sim_set("PINNED", (int64_t)(counted().pinned + 2 * GRANULE));
    for (uint64_t i = 0; i < 4; i++)
        use(t, 4 * GRANULE, d.dev, i);
    eventually(tier_stats_of(d.m, 1).registered_refused != NULL);
    cr_assert_eq(registered(), 2 * GRANULE);
    cr_assert_not_null(strstr(tier_stats_of(d.m, 1).registered_refused, "cuda:0: the host is out of memory"), "%s",
                       tier_stats_of(d.m, 1).registered_refused);
    for (uint64_t i = 4; i < 8; i++)
        use(t, 4 * GRANULE, d.dev, i);
    close_device();
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) /* there mlock() does nothing */
/* RLIMIT_MEMLOCK binds whoever has not the capability. */
static bool capability_drops(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    if (syscall(SYS_capget, &head, data))
        return false;
    data[0].effective &= ~(1u << CAP_IPC_LOCK);
    return syscall(SYS_capset, &head, data) == 0;
}

Test(cuda_registered, within_the_limit_of_locked_memory, .timeout = 60)
{
    struct rlimit limit = {3 * GRANULE + GRANULE / 2, 3 * GRANULE + GRANULE / 2};
    if (setrlimit(RLIMIT_MEMLOCK, &limit) || !capability_drops())
        cr_skip_test("privileges cannot be dropped here");
    open_device("cuda:0,numa:0", 64 * MIB);
    terrace_tensor *t = tensor_of(d.m, 8 * GRANULE, "t");
    for (uint64_t i = 0; i < 3; i++)
        use(t, 8 * GRANULE, d.dev, i);
    eventually(tier_stats_of(d.m, 1).registered_refused != NULL);
    cr_assert_eq(registered(), 3 * GRANULE);
    cr_assert_not_null(strstr(tier_stats_of(d.m, 1).registered_refused, "ulimit -l"));
    close_device();
}
#endif

Test(cuda_registered, once_for_two_devices, .timeout = 60)
{
    terrace_tier second;
    sim_set("DEVICES", 2);
    open_device("cuda:0,cuda:1,numa:0,simdisk:0", 128 * MIB);
    uint64_t staging = registered();
    assert_ok(terrace_tier_find(d.m, "cuda:1", &second));
    terrace_tensor *t = tensor_of(d.m, 2 * GRANULE, "t");
    for (uint64_t i = 0; i < 4; i++)
        use(t, 2 * GRANULE, i % 2 ? second : d.dev, i);
    eventually(registered() == staging + 2 * GRANULE);
    cr_assert_eq(counted().pinned, d.before + 2 * GRANULE);
    uint64_t pageable = counted().pageable_copies;
    use(t, 2 * GRANULE, d.dev, 5);
    use(t, 2 * GRANULE, second, 6);
    cr_assert_eq(counted().pageable_copies, pageable);
    close_device();
}

/* Its pages are to be moved, which the driver would be in the way of. */
Test(cuda_registered, nothing_beside_stable_memory, .timeout = 60)
{
    open_device(ALL, 64 * MIB);
    terrace_tensor *t = tensor_of(d.m, 2 * GRANULE, "t");
    use(t, 2 * GRANULE, d.dev, 1);
    use(t, 2 * GRANULE, d.dev, 2);
    eventually(registered() == 2 * GRANULE);
    char *p = terrace_malloc(d.m, 8 * MIB, d.host, NULL);
    if (!p)
        cr_skip_test("no stable memory here");
    memset(p, 1, 8 * MIB);
    if (strncmp(tier_stats_of(d.m, 1).stable_engine, "file", 4) != 0)
        cr_assert_eq(registered(), 0);
    use(t, 2 * GRANULE, d.dev, 3);
    terrace_free(d.m, p);
    close_device();
}

static void *others_main(void *arg)
{
    unsigned random = (unsigned)(uintptr_t)arg;
    for (int i = 0; i < 60; i++) {
        random = random * 1664525 + 1013904223;
        size_t bytes = GRANULE * (1 + (random >> 30)) + (random >> 18 & 0xff000);
        terrace_tensor *t = tensor_of(d.m, bytes, "t");
        for (unsigned n = 0; n <= (random >> 24 & 3); n++)
            use(t, bytes, d.dev, random + n);
        terrace_tensor_destroy(t);
    }
    return NULL;
}

Test(cuda_registered, threads, .timeout = 120)
{
    pthread_t thread[3];
    open_device(ALL, 48 * MIB);
    for (uintptr_t i = 0; i < 3; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, others_main, (void *)(i + 1)), 0);
    for (int i = 0; i < 3; i++)
        pthread_join(thread[i], NULL);
    close_device();
}
