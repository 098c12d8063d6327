/* vm_placement.c - tiers that are NUMA nodes, on a real kernel with two of them.
 *
 * Runs in the virtual machine of check.sh: node 0 has the CPUs and a pool of one
 * page of 1 GiB; node 1 has 384 MiB, no CPUs, and a pool of 16 pages of 2 MiB.
 * Every test is a process of its own, and being killed fails it. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "../manager.h"
#include "../simdisk.h"
#include "look.h"

enum { FAR = 1 /* the node without CPUs, and its tier */ };

/* ---- looking ------------------------------------------------------------- */

static long pool_free(void)
{
    return number_in("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/free_hugepages", "");
}

static void put(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY);
    cr_assert(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s: %s", path,
              strerror(errno));
    close(fd);
}

/* ---- taking -------------------------------------------------------------- */

static void *taken(terrace *m, terrace_tier tier, size_t bytes)
{
    terrace_tensor *t = tensor_of(m, bytes, "t");
    void *p;
    assert_ok(terrace_acquire(t, tier, TERRACE_OVERWRITE, NULL, &p, NULL));
    memset(p, 0x5a, bytes);
    return p;
}

static terrace *open_numa(const char *conf)
{
    char all[256];
    terrace *m;
    snprintf(all, sizeof all, "tiers=numa;%s", conf);
    assert_ok(terrace_open(&m, all));
    return m;
}

static unsigned tiers_of(terrace *m)
{
    terrace_tier_statistics s = {.size = sizeof s};
    unsigned n = 0;
    while (terrace_tier_stats(m, (terrace_tier)n, &s) == 0)
        n++;
    return n;
}

/* ---- tiers --------------------------------------------------------------- */

Test(placement, every_node_is_a_tier_and_says_which)
{
    terrace *m = open_numa("");
    cr_assert_eq(tiers_of(m), 2);
    terrace_tier_statistics near = tier_stats_of(m, 0), far = tier_stats_of(m, FAR);
    cr_assert_str_eq(near.name, "numa:0");
    cr_assert_str_eq(far.name, "numa:1");
    cr_assert(near.node == 0 && far.node == 1);
    cr_assert_str_eq(near.location, "node 0, one of 2");
    cr_assert_str_eq(far.location, "node 1, one of 2, without CPUs");
    cr_assert_str_eq(near.distances, "numa:0 10, numa:1 20");
    cr_assert_str_eq(far.distances, "numa:0 20, numa:1 10");
    cr_assert(strstr(far.engine_reason, "bound to node 1"), "%s", far.engine_reason);
    terrace_close(m);
}

Test(placement, budgets_are_what_the_nodes_have)
{
    terrace *m = open_numa("");
    uint64_t near = tier_stats_of(m, 0).limit, far = tier_stats_of(m, FAR).limit;
    uint64_t available = (uint64_t)number_in("/proc/meminfo", "MemAvailable:") << 10;
    cr_assert(far > 100 * MIB && far < 384u * MIB, "%llu", (unsigned long long)far);
    cr_assert(near > far && near + far < available);
    terrace_close(m);
    m = open_numa("limit_host=96M");
    near = tier_stats_of(m, 0).limit;
    far = tier_stats_of(m, FAR).limit;
    cr_assert(near > far && far > MIB && near + far <= 96 * MIB && near + far > 95 * MIB);
    terrace_close(m);
}

Test(placement, a_tensor_lies_where_it_was_acquired)
{
    static const size_t sizes[] = {4 * KIB, 100 * KIB, MIB + 4 * KIB, 2 * MIB, 24 * MIB};
    terrace *m = open_numa("limit_numa=64M");
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        for (terrace_tier tier = 0; tier < 2; tier++)
            assert_all_on(tier, taken(m, tier, sizes[i]), sizes[i]);
    char line[1024];
    numa_maps(taken(m, FAR, 2 * MIB), line, sizeof line);
    cr_assert(strstr(line, "prefer") && strstr(line, " N1=") && !strstr(line, " N0="), "%s", line);
    terrace_close(m);
}

Test(placement, memory_used_again_is_still_there)
{
    terrace *m;
    assert_ok(terrace_open(&m, "tiers=numa:1,simdisk:0;limit_numa=16M"));
    terrace_tensor *t[12];
    for (int round = 0; round < 3; round++)
        for (uint64_t i = 0; i < 12; i++) {
            void *p;
            if (round == 0)
                t[i] = tensor_of(m, 2 * MIB + i * 64 * KIB, "t");
            assert_ok(terrace_acquire(t[i], 0, TERRACE_WRITE | TERRACE_WAIT, NULL, &p, NULL));
            if (round)
                cr_assert(pattern_is(p, 2 * MIB, i));
            pattern_fill(p, 2 * MIB, i);
            assert_all_on(FAR, p, 2 * MIB);
            assert_ok(terrace_release(t[i], p, NULL));
        }
    terrace_close(m);
}

/* ---- a node that is full --------------------------------------------------- */

Test(placement, a_full_node_is_an_error_and_kills_nobody)
{
    terrace *m = open_numa("limit_numa=2G;log=off");
    size_t got = 0, before = free_on(0);
    int r;
    for (;; got++) {
        terrace_tensor *t = tensor_of(m, 8 * MIB, "t");
        void *p;
        r = terrace_acquire(t, FAR, TERRACE_OVERWRITE, NULL, &p, NULL);
        if (r)
            break;
        memset(p, 1, 8 * MIB);
        assert_all_on(FAR, p, 8 * MIB);
    }
    cr_assert_eq(r, -TERRACE_ENOMEM, "%s", terrace_last_error());
    cr_assert(strstr(terrace_last_error(), "node 1"), "%s", terrace_last_error());
    cr_assert(got * 8 > 200, "only %zu MiB", got * 8);
    cr_assert(free_on(0) + 64 * MIB > before, "memory of the other node was taken");
    assert_all_on(0, taken(m, 0, 8 * MIB), 8 * MIB);
    terrace_close(m);
}

Test(placement, cached_files_make_room)
{
    unsigned long node = 1ul << FAR;
    char *buffer = malloc(MIB);
    int fd = open("/dev/nullb0", O_RDONLY);
    cr_assert(fd >= 0, "%s", strerror(errno));
    cr_assert_eq(set_mempolicy(MPOL_PREFERRED, &node, 64), 0);
    for (size_t left = free_on(FAR); left > 2 * MIB; left -= MIB)
        cr_assert_eq(read(fd, buffer, MIB), MIB);
    set_mempolicy(MPOL_DEFAULT, NULL, 0);
    cr_assert(free_on(FAR) < 60u * MIB, "%zu MiB free", free_on(FAR) / MIB);
    terrace *m = open_numa("log=off");
    cr_assert(tier_stats_of(m, FAR).limit > 100 * MIB, "%s", tier_stats_of(m, FAR).limit_reason);
    for (int i = 0; i < 12; i++)
        assert_all_on(FAR, taken(m, FAR, 8 * MIB), 8 * MIB);
    terrace_close(m);
    close(fd);
    put("/proc/sys/vm/drop_caches", "1");
}

/* ---- what may be used ------------------------------------------------------ */

static void enter_cpuset(const char *nodes)
{
    mkdir("/sys/fs/cgroup/terrace", 0755);
    put("/sys/fs/cgroup/terrace/cpuset.mems", nodes);
    put("/sys/fs/cgroup/terrace/cgroup.procs", "0");
}

Test(placement, a_cpuset_leaves_one_tier)
{
    enter_cpuset("1");
    terrace *m = open_numa("limit_numa=16M");
    cr_assert_eq(tiers_of(m), 1);
    cr_assert_str_eq(tier_stats_of(m, 0).location, "node 1");
    cr_assert_eq(tier_stats_of(m, 0).node, 1);
    assert_all_on(1, taken(m, 0, 4 * MIB), 4 * MIB);
    terrace_close(m);
}

Test(placement, without_mbind_there_is_one_tier)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_mbind, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof filter / sizeof *filter, filter};
    cr_assert_eq(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), 0);
    cr_assert_eq(prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program), 0);
    terrace *m = open_numa("limit_numa=16M");
    cr_assert_eq(tiers_of(m), 1);
    terrace_tier_statistics s = tier_stats_of(m, 0);
    cr_assert_str_eq(s.location, "2 nodes");
    cr_assert(strstr(s.engine_reason, "not permitted"), "%s", s.engine_reason);
    taken(m, 0, 4 * MIB);
    terrace_close(m);
}

/* ---- pages ----------------------------------------------------------------- */

Test(placement, huge_pages_as_asked_for)
{
    terrace *m = open_numa("limit_numa=32M;hugepages=thp");
    void *p = taken(m, FAR, 8 * MIB);
    cr_assert_geq(smaps(p, "AnonHugePages:"), 8 * 1024);
    void *small = taken(m, FAR, 1 * MIB);
    cr_assert_eq(smaps(small, "AnonHugePages:"), 0);
    terrace_close(m);
    m = open_numa("limit_numa=32M;hugepages=off");
    p = taken(m, FAR, 8 * MIB);
    cr_assert_eq(smaps(p, "AnonHugePages:"), 0);
    terrace_close(m);
}

Test(placement, pages_of_the_pool)
{
    char line[1024];
    cr_assert_eq(pool_free(), 16);
    terrace *m = open_numa("limit_numa=24M;hugepages=2m");
    cr_assert(strstr(tier_stats_of(m, FAR).engine_reason, "2 MiB from the system's pool"));
    void *p = taken(m, FAR, 8 * MIB);
    cr_assert_eq(smaps(p, "KernelPageSize:"), 2048);
    numa_maps(p, line, sizeof line);
    cr_assert(strstr(line, " huge ") && strstr(line, " N1=4 "), "%s", line);
    cr_assert_eq(pool_free(), 12);
    cr_assert_eq(smaps(taken(m, FAR, 1 * MIB), "KernelPageSize:"), 4);
    cr_assert_null(terrace_malloc(m, MIB, FAR, NULL));
    cr_assert(strstr(terrace_last_error(), "TERRACE_HUGEPAGES"), "%s", terrace_last_error());
    terrace_close(m);
    cr_assert_eq(pool_free(), 16);
}

Test(placement, memory_given_back_returns_to_the_pool)
{
    terrace *m;
    assert_ok(terrace_open(&m, "tiers=numa:1,simdisk:0;limit_numa=16M;hugepages=2m"));
    terrace_tensor *t = tensor_of(m, 12 * MIB, "t");
    write_pattern(t, 0, 12 * MIB, 1);
    cr_assert_eq(pool_free(), 10);
    push_down(t, m);
    for (int i = 0; i < 15; i++)
        taken(m, 0, 1 * MIB); /* in small pages: the budget wants the others back */
    cr_assert_eq(pool_free(), 16);
    terrace_close(m);
}

Test(placement, an_empty_pool_falls_back_and_kills_nobody)
{
    char log[] = "/tmp/terrace-log-XXXXXX", conf[128];
    int fd = mkstemp(log);
    snprintf(conf, sizeof conf, "limit_numa=96M;hugepages=2m;log_file=%s", log);
    terrace *m = open_numa(conf);
    void *p = NULL;
    for (int i = 0; i < 8; i++) {
        p = taken(m, FAR, 10 * MIB);
        assert_all_on(FAR, p, 10 * MIB);
    }
    cr_assert_eq(smaps(p, "KernelPageSize:"), 4);
    cr_assert_geq(smaps(p, "AnonHugePages:"), 10 * 1024);
    cr_assert_eq(pool_free(), 1);
    terrace_close(m);
    char text[1024] = "";
    cr_assert(read(fd, text, sizeof text - 1) > 0);
    char *said = strstr(text, "the pool of huge pages");
    cr_assert(said && !strstr(said + 1, "the pool of huge pages"), "%s", text);
    cr_assert_eq(pool_free(), 16);
    unlink(log);
}

Test(placement, a_fork_leaves_pages_of_the_pool_alone)
{
    terrace *m = open_numa("limit_numa=64M;hugepages=2m;log=off");
    char *p = taken(m, FAR, 32 * MIB); /* all of the pool */
    cr_assert_eq(pool_free(), 0);
    pid_t child = fork();
    if (child == 0) {
        pause();
        _exit(0);
    }
    memset(p, 3, 32 * MIB); /* nothing is left to copy a page to */
    cr_assert_eq(p[17 * MIB], 3);
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    terrace_close(m);
}

Test(placement, pages_of_a_gigabyte)
{
    terrace *m;
    assert_ok(terrace_open(&m, "tiers=numa:0;limit_numa=1G;hugepages=1g"));
    terrace_tensor *t = tensor_of(m, (size_t)1010 * MIB, "t");
    void *p;
    assert_ok(terrace_acquire(t, 0, TERRACE_OVERWRITE, NULL, &p, NULL));
    cr_assert_eq(smaps(p, "KernelPageSize:"), 1024 * 1024);
    cr_assert_eq(pages_on(0, p, MIB), 256);
    ((char *)p)[(size_t)1009 * MIB] = 1;
    cr_assert_eq(tier_stats_of(m, 0).used, (uint64_t)1024 * MIB);
    assert_ok(terrace_release(t, p, NULL));
    terrace_tensor_destroy(t);
    cr_assert_eq(smaps(taken(m, 0, 8 * MIB), "KernelPageSize:"), 4);
    terrace_close(m);
}
