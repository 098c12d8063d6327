/* test_mapped.c - address-stable memory by a file mapping (TERRACE_STABLE=file):
 * the same behaviour as by userfaultfd, and what is its own. */
#include <errno.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "manager.h"
#include "simdisk.h"

static terrace *open_file(size_t limit, const char *more)
{
    char conf[200];
    snprintf(conf, sizeof conf, "stable=file;nvme_path=/var/tmp;%s", more);
    return open_with("numa:0,nvme:0", limit, conf);
}

#define STABLE_SUITE mapped
#define STABLE_OPEN(limit) open_file(limit, "")
#include "stable_cases.h"

/* Bytes of a mapping that are in memory. */
static size_t resident(unsigned char *p, size_t bytes)
{
    size_t n = 0;
    unsigned char *there = calloc(1, bytes / 4096);
    cr_assert_eq(mincore(p, bytes, there), 0);
    for (size_t i = 0; i < bytes / 4096; i++)
        n += there[i] & 1;
    free(there);
    return n * 4096;
}

Test(mapped, what_is_resident_comes_down_to_the_budget, .timeout = 60)
{
    terrace *m = open_file(32 * MIB, "");
    unsigned char *p = stable_of(m, 128 * MIB);
    memset(p, 1, 128 * MIB);
    eventually(resident(p, 128 * MIB) <= 32 * MIB);
    for (size_t i = 0; i < 128 * MIB; i += 4096)
        cr_assert_eq(p[i], 1);
    eventually(resident(p, 128 * MIB) <= 32 * MIB);
    cr_assert_geq(tier_stats_of(m, 0).used, 8 * MIB, "it is not charged");
    terrace_free(m, p);
    terrace_close(m);
}

Test(mapped, a_walk_is_read_ahead, .timeout = 60)
{
    terrace *m = open_file(64 * MIB, "");
    unsigned char *p = stable_of(m, 256 * MIB);
    unsigned long sum = 0;
    memset(p, 1, 256 * MIB);
    uint64_t before = stats_of(m).prefetches;
    for (int round = 0; round < 3; round++)
        for (size_t i = 0; i < 256 * MIB; i += 4096) {
            sum += p[i];
            if (i % MIB == 0)
                usleep(200);
        }
    cr_assert_eq(sum, 3 * 256 * MIB / 4096);
    cr_assert_gt(stats_of(m).prefetches, before);
    terrace_close(m);
}

Test(mapped, prefetch_off_is_obeyed, .timeout = 60)
{
    terrace *m = open_file(32 * MIB, "prefetch=off");
    unsigned char *p = stable_of(m, 128 * MIB);
    memset(p, 1, 128 * MIB);
    for (size_t i = 0; i < 128 * MIB; i += 4096)
        cr_assert_eq(p[i], 1);
    cr_assert_eq(stats_of(m).prefetches, 0);
    terrace_close(m);
}

Test(mapped, pinned_bytes_stay_and_unneeded_ones_go, .timeout = 60)
{
    terrace *m = open_file(32 * MIB, "");
    unsigned char *p = stable_of(m, 128 * MIB);
    memset(p, 1, 8 * MIB);
    assert_ok(terrace_advise(m, p, 8 * MIB, TERRACE_ADVISE_PIN, host_of(m)));
    memset(p + 8 * MIB, 2, 120 * MIB);
    eventually(resident(p, 128 * MIB) <= 32 * MIB);
    cr_assert_eq(resident(p, 8 * MIB), 8 * MIB);
    assert_ok(terrace_advise(m, p, 8 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    usleep(100000);
    cr_assert_eq(resident(p, 8 * MIB), 8 * MIB, "pinned bytes went");
    assert_ok(terrace_advise(m, p, 8 * MIB, TERRACE_ADVISE_UNPIN, host_of(m)));
    assert_ok(terrace_advise(m, p, 8 * MIB, TERRACE_ADVISE_DONTNEED, host_of(m)));
    eventually(resident(p, 8 * MIB) == 0);
    assert_ok(terrace_advise(m, p, 4 * MIB, TERRACE_ADVISE_WILLNEED, host_of(m)));
    eventually(resident(p, 4 * MIB) == 4 * MIB);
    for (size_t i = 0; i < 8 * MIB; i += 4096)
        cr_assert_eq(p[i], 1);
    terrace_close(m);
}

/* Root may lock what it likes. */
static void may_not_lock(void)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[_LINUX_CAPABILITY_U32S_3] = {{0}};
    cr_assert_eq(syscall(SYS_capget, &header, data), 0);
    data[CAP_IPC_LOCK / 32].effective &= ~(1u << CAP_IPC_LOCK % 32);
    cr_assert_eq(syscall(SYS_capset, &header, data), 0);
}

/* The limit on locked memory is no reason to refuse. */
Test(mapped, pins_without_locked_memory, .timeout = 60)
{
    struct rlimit none = {0, 0};
    terrace *m = open_file(32 * MIB, "");
    unsigned char *p = stable_of(m, 128 * MIB);
    cr_assert_eq(setrlimit(RLIMIT_MEMLOCK, &none), 0);
    may_not_lock();
    memset(p, 1, 8 * MIB);
    assert_ok(terrace_advise(m, p, 8 * MIB, TERRACE_ADVISE_PIN, host_of(m)));
    memset(p + 8 * MIB, 2, 120 * MIB);
    eventually(resident(p, 128 * MIB) <= 32 * MIB);
    cr_assert_eq(resident(p, 8 * MIB), 8 * MIB);
    assert_ok(terrace_advise(m, p, 8 * MIB, TERRACE_ADVISE_UNPIN, host_of(m)));
    terrace_close(m);
}

Test(mapped, tensors_get_back_what_it_has_over_its_share, .timeout = 60)
{
    terrace *m = open_file(32 * MIB, "");
    unsigned char *p = stable_of(m, 128 * MIB);
    terrace_tensor *t = tensor_of(m, 22 * MIB, "large");
    memset(p, 1, 128 * MIB);
    eventually(tier_stats_of(m, 0).used > 24 * MIB);
    write_pattern(t, host_of(m), 22 * MIB, 1);
    cr_assert_leq(tier_stats_of(m, 0).peak, 32 * MIB);
    expect_pattern(t, host_of(m), 22 * MIB, 1);
    void *address;
    assert_ok(terrace_acquire(t, host_of(m), TERRACE_READ, NULL, &address, NULL));
    eventually(resident(p, 128 * MIB) <= 12 * MIB);
    assert_ok(terrace_release(t, address, NULL));
    terrace_close(m);
}

Test(mapped, a_full_disk_is_an_error_of_malloc)
{
    terrace *m = open_file(8 * MIB, "limit_nvme=64M");
    cr_assert_null(terrace_malloc(m, 128 * MIB, host_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "TERRACE_LIMIT_NVME"), "%s", terrace_last_error());
    unsigned char *p = stable_of(m, 32 * MIB), *q = stable_of(m, 32 * MIB);
    cr_assert_null(terrace_malloc(m, 2 * MIB, host_of(m), NULL));
    terrace_free(m, p);
    p = stable_of(m, 32 * MIB);
    memset(p, 1, 32 * MIB);
    memset(q, 1, 32 * MIB);
    terrace_close(m);
}

Test(mapped, striped_over_two_folders, .timeout = 60)
{
    char one[] = "/var/tmp/terrace-test.XXXXXX", two[] = "/var/tmp/terrace-test.XXXXXX", conf[300];
    terrace *m;
    cr_assert(mkdtemp(one) && mkdtemp(two));
    snprintf(conf, sizeof conf, "tiers=numa:0,nvme:0;limit_numa=16M;stable=file;nvme_path=%s:%s", one, two);
    assert_ok(terrace_open(&m, conf));
    unsigned char *p = stable_of(m, 64 * MIB);
    pattern_fill(p, 64 * MIB, 1);
    cr_assert(pattern_is(p, 64 * MIB, 1));
    cr_assert_eq((uintptr_t)p % BLOCK, 0);
    terrace_close(m);
    rmdir(one);
    rmdir(two);
}

Test(mapped, sealed_spill_is_refused)
{
    static const char *const sealed[] = {"encrypt=1", "verify=spill"};
    for (size_t i = 0; i < 2; i++) {
        terrace *m = open_file(8 * MIB, sealed[i]);
        cr_assert_null(terrace_malloc(m, 4 * MIB, host_of(m), NULL));
        cr_assert(strstr(terrace_last_error(), "TERRACE_ENCRYPT"), "%s", terrace_last_error());
        terrace_close(m);
    }
}

Test(mapped, a_disk_that_is_no_file_is_refused)
{
    terrace *m = open_sim(8 * MIB, "stable=file");
    cr_assert_null(terrace_malloc(m, 4 * MIB, host_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "simdisk"), "%s", terrace_last_error());
    terrace_close(m);
    m = open_with("numa:0", 8 * MIB, "stable=file");
    cr_assert_null(terrace_malloc(m, 1 * MIB, host_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "TERRACE_TIERS"), "%s", terrace_last_error());
    terrace_close(m);
}

/* In a process that may not have userfaultfd, as in many containers. */
static void forbid_userfaultfd(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof filter[0], filter};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
        cr_skip_test("no seccomp here");
}

Test(mapped, serves_where_userfaultfd_is_forbidden, .timeout = 60)
{
    forbid_userfaultfd();
    if (access("/dev/userfaultfd", R_OK | W_OK) == 0 && setresuid(65534, 65534, 65534))
        cr_skip_test("another way to userfaultfd is open");
    terrace *m = open_with("numa:0,nvme:0", 8 * MIB, "nvme_path=/var/tmp");
    unsigned char *p = stable_of(m, 32 * MIB);
    pattern_fill(p, 32 * MIB, 1);
    cr_assert(pattern_is(p, 32 * MIB, 1));
    const char *engine = tier_stats_of(m, 0).stable_engine;
    cr_assert(strstr(engine, "file mapping") && strstr(engine, "seccomp"), "%s", engine);
    terrace_close(m);
    m = open_with("numa:0,nvme:0", 8 * MIB, "nvme_path=/var/tmp;stable=userfaultfd");
    cr_assert_null(terrace_malloc(m, 4 * MIB, host_of(m), NULL));
    cr_assert(strstr(terrace_last_error(), "seccomp"), "%s", terrace_last_error());
    terrace_close(m);
}
