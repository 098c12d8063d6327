/* test_numa.c - tiers on machines that are made up: a folder stands for "/", and
 * binding pages to nodes is pretended. Real nodes: tests/numa_vm/. */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <numaif.h>
#include <stdarg.h>
#include <sys/mman.h>

#include "../offload/numa_memory.h"
#include "../offload/numa_nodes.h"
#include "core.h"
#include "manager.h"

#define GIB ((uint64_t)1 << 30)

/* ---- a machine ------------------------------------------------------------- */

static char root[] = "/tmp/terrace-numa-XXXXXX";

static struct {
    int refuse;           /* errno of every mbind */
    int strict_failures;  /* so many questions whether pages are on a node get a no */
    int move_error;       /* errno of move_pages */
    unsigned binds, moves;
    int node;             /* of the last mbind */
} kernel;

static long fake_mbind(void *start, unsigned long bytes, int mode, const unsigned long *nodes,
                       unsigned long most, unsigned flags)
{
    (void)start, (void)bytes;
    cr_assert(mode & MPOL_PREFERRED && most > 64);
    kernel.binds++;
    kernel.node = __builtin_ctzl(nodes[0]);
    errno = kernel.refuse;
    if (!errno && flags & MPOL_MF_STRICT && kernel.strict_failures-- > 0)
        errno = EIO;
    return errno ? -1 : 0;
}

static long fake_move_pages(int process, unsigned long n, void **page, const int *node, int *status,
                            int flags)
{
    (void)process, (void)n, (void)page, (void)node, (void)status, (void)flags;
    kernel.moves++;
    errno = kernel.move_error;
    return errno ? -1 : 0;
}

static const struct numa_system fake = {root, fake_mbind, fake_move_pages};

/* Writes a file and the folders above it. */
__attribute__((format(printf, 2, 3))) static void put(const char *path, const char *format, ...)
{
    char full[256], command[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    snprintf(command, sizeof command, "mkdir -p \"$(dirname '%s')\"", full);
    cr_assert_eq(system(command), 0);
    FILE *file = fopen(full, "w");
    cr_assert_not_null(file, "%s", full);
    va_list args;
    va_start(args, format);
    vfprintf(file, format, args);
    va_end(args);
    fclose(file);
}

/* A node: how much is free, which CPUs it has, its line of distances. */
static void node(int number, uint64_t free, const char *cpus, const char *distances)
{
    char path[64];
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/meminfo", number);
    put(path, "Node %d MemTotal: 999999999 kB\nNode %d MemFree: %" PRIu64 " kB\n"
        "Node %d Active(file): 1024 kB\nNode %d Inactive(file): 1024 kB\nNode %d SReclaimable: 0 kB\n",
        number, number, (free >> 10) - 2048, number, number, number);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", number);
    put(path, "%s\n", cpus);
    snprintf(path, sizeof path, "/sys/devices/system/node/node%d/distance", number);
    put(path, "%s\n", distances);
}

static void machine(const char *online, const char *memory, const char *cpus, const char *allowed,
                    const char *allowed_cpus)
{
    put("/sys/devices/system/node/online", "%s\n", online);
    put("/sys/devices/system/node/has_memory", "%s\n", memory);
    put("/sys/devices/system/node/has_cpu", "%s\n", cpus);
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    put("/proc/self/status", "Name:\tx\nCpus_allowed:\tf\nCpus_allowed_list:\t%s\n"
        "Mems_allowed:\tf\nMems_allowed_list:\t%s\n", allowed_cpus, allowed);
}

static void two_nodes(uint64_t free0, uint64_t free1)
{
    machine("0-1", "0-1", "0-1", "0-1", "0-7");
    node(0, free0, "0-3", "10 21");
    node(1, free1, "4-7", "21 10");
}

static void set_up(void)
{
    cr_assert_not_null(mkdtemp(root));
    numa_system = &fake;
}

static void tear_down(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    cr_expect_eq(system(command), 0);
}

TestSuite(numa, .init = set_up, .fini = tear_down, .timeout = 60);

/* ---- which tiers, in which order --------------------------------------------- */

static terrace *open_numa(const char *conf)
{
    char all[256];
    terrace *m;
    snprintf(all, sizeof all, "tiers=numa;%s", conf);
    assert_ok(terrace_open(&m, all));
    return m;
}

/* "numa:0=0 numa:1=4 " for nodes 0 and 4. */
static void expect_nodes(const char *want)
{
    terrace *m = open_numa("limit_numa=4M");
    terrace_tier_statistics s = {.size = sizeof s};
    char all[256] = "";
    for (terrace_tier i = 0; terrace_tier_stats(m, i, &s) == 0; i++)
        snprintf(all + strlen(all), sizeof all - strlen(all), "%s=%d ", s.name, s.node);
    cr_assert_str_eq(all, want);
    terrace_close(m);
}

Test(numa, each_node_is_a_tier)
{
    two_nodes(2 * GIB, GIB);
    expect_nodes("numa:0=0 numa:1=1 ");
    terrace *m = open_numa("limit_numa=4M");
    cr_assert_str_eq(tier_stats_of(m, 1).location, "node 1, one of 2");
    cr_assert_str_eq(tier_stats_of(m, 0).distances, "numa:0 10, numa:1 21");
    cr_assert_str_eq(tier_stats_of(m, 1).distances, "numa:0 21, numa:1 10");
    cr_assert(strstr(tier_stats_of(m, 1).engine_reason, "bound to node 1"));
    terrace_close(m);
}

Test(numa, the_first_tier_is_the_node_of_the_first_cpu)
{
    two_nodes(GIB, GIB);
    machine("0-1", "0-1", "0-1", "0-1", "5-6");
    expect_nodes("numa:0=1 numa:1=0 ");
    terrace *m = open_numa("limit_numa=4M");
    cr_assert_str_eq(tier_stats_of(m, 0).distances, "numa:0 10, numa:1 21");
    terrace_close(m);
}

Test(numa, near_nodes_come_first_and_those_without_cpus_last)
{
    machine("0-3", "0-3", "0,2-3", "0-3", "0-11");
    node(0, GIB, "0-3", "10 14 31 21");
    node(1, GIB, "", "14 10 41 41");
    node(2, GIB, "4-7", "31 41 10 21");
    node(3, GIB, "8-11", "21 41 21 10");
    expect_nodes("numa:0=0 numa:1=3 numa:2=2 numa:3=1 ");
    terrace *m = open_numa("limit_numa=4M");
    cr_assert_str_eq(tier_stats_of(m, 3).location, "node 1, one of 4, without CPUs");
    cr_assert_str_eq(tier_stats_of(m, 1).distances, "numa:0 21, numa:1 10, numa:2 21, numa:3 41");
    terrace_close(m);
}

Test(numa, numbers_may_have_gaps)
{
    machine("0,4,9", "0,4,9", "0,4", "0,4,9", "0-7");
    node(0, GIB, "0-3", "10 21 15");
    node(4, GIB, "4-7", "21 10 31");
    node(9, GIB, "", "15 31 10");
    expect_nodes("numa:0=0 numa:1=4 numa:2=9 ");
    terrace *m = open_numa("limit_numa=4M");
    cr_assert_str_eq(tier_stats_of(m, 1).distances, "numa:0 21, numa:1 10, numa:2 31");
    terrace_close(m);
}

Test(numa, a_node_without_memory_is_none)
{
    machine("0-2", "0,2", "0-2", "0-2", "0-11");
    node(0, GIB, "0-3", "10 21 21");
    node(1, 0, "4-7", "21 10 21");
    node(2, GIB, "8-11", "21 21 10");
    expect_nodes("numa:0=0 numa:1=2 ");
    machine("0-2", "0,2", "0-2", "0-2", "4-7"); /* at home where there is no memory */
    expect_nodes("numa:0=0 numa:1=2 ");
}

Test(numa, more_nodes_than_tiers_are_cut_at_the_far_end)
{
    char distances[128] = "10";
    machine("0-15", "0-15", "0-15", "0-15", "0-15");
    for (int n = 1; n < 16; n++)
        snprintf(distances + strlen(distances), sizeof distances - strlen(distances), " %d", 60 - n);
    for (int n = 0; n < 16; n++) {
        char cpu[16];
        snprintf(cpu, sizeof cpu, "%d", n);
        node(n, GIB, cpu, distances);
    }
    terrace *m = open_numa("limit_numa=4M;log=off");
    terrace_tier tier;
    cr_assert_eq(tier_stats_of(m, 11).node, 5);
    assert_fails(terrace_tier_find(m, "numa:12", &tier), TERRACE_ENOENT);
    terrace_close(m);
}

/* ---- what may be used ---------------------------------------------------------- */

Test(numa, a_cpuset_of_one_node_leaves_one_tier_that_needs_no_binding)
{
    two_nodes(GIB, GIB);
    machine("0-1", "0-1", "0-1", "1", "4-7");
    terrace *m = open_numa("limit_numa=8M");
    terrace_tier_statistics s = tier_stats_of(m, 0);
    cr_assert(s.node == 1 && !*s.distances);
    cr_assert_str_eq(s.location, "node 1");
    terrace_tensor *t = tensor_of(m, 4 * MIB, "t");
    void *p;
    unsigned char there[1024];
    assert_ok(terrace_acquire(t, 0, TERRACE_OVERWRITE, NULL, &p, NULL));
    cr_assert_eq(mincore(p, 4 * MIB, there), 0);
    for (int i = 0; i < 1024; i++)
        cr_assert_eq(there[i] & 1, 0, "memory was populated that nobody has touched");
    cr_assert(!kernel.binds && !kernel.moves);
    terrace_close(m);
}

static void without_binding(int error, const char *said)
{
    two_nodes(GIB, GIB);
    kernel.refuse = error;
    terrace *m = open_numa("limit_numa=8M");
    terrace_tier_statistics s = tier_stats_of(m, 0), none = {.size = sizeof none};
    cr_assert(terrace_tier_stats(m, 1, &none) != 0);
    cr_assert_str_eq(s.location, "2 nodes");
    cr_assert_eq(s.node, -1);
    cr_assert(strstr(s.engine_reason, said) && strstr(s.engine_reason, "seccomp"), "%s", s.engine_reason);
    write_pattern(tensor_of(m, MIB, "t"), 0, MIB, 1);
    terrace_close(m);
}

Test(numa, binding_that_is_not_permitted_leaves_one_tier)
{
    without_binding(EPERM, "not permitted");
}

Test(numa, binding_that_is_unknown_leaves_one_tier)
{
    without_binding(ENOSYS, "not implemented");
}

Test(numa, a_system_that_tells_nothing_has_one_tier)
{
    terrace *m = open_numa("limit_numa=8M");
    cr_assert_str_eq(tier_stats_of(m, 0).location, "all memory");
    cr_assert_eq(tier_stats_of(m, 0).node, -1);
    terrace_close(m);
    put("/proc/self/status", "Mems_allowed_list:\t\nCpus_allowed_list:\t\n");
    put("/sys/devices/system/node/has_memory", "nonsense\n");
    expect_nodes("numa:0=-1 ");
    machine("0-99999999", "0-1,", "", "0-1,99999-3", "");
    expect_nodes("numa:0=0 numa:1=1 ");
}

/* ---- pages on their node --------------------------------------------------------- */

Test(numa, pages_are_bound_populated_and_asked_after)
{
    two_nodes(GIB, GIB);
    terrace *m = open_numa("limit_numa=8M");
    for (terrace_tier tier = 0; tier < 2; tier++) {
        terrace_tensor *t = tensor_of(m, 4 * MIB, "t");
        unsigned char there[1024];
        void *p;
        unsigned binds = kernel.binds;
        assert_ok(terrace_acquire(t, tier, TERRACE_OVERWRITE, NULL, &p, NULL));
        cr_assert_eq(kernel.binds, binds + 1);
        cr_assert_eq(kernel.node, tier);
        cr_assert_eq(mincore(p, 4 * MIB, there), 0);
        for (int i = 0; i < 1024; i++)
            cr_assert(there[i] & 1);
    }
    cr_assert_eq(kernel.moves, 0);
    terrace_close(m);
}

Test(numa, pages_that_went_elsewhere_are_moved)
{
    two_nodes(GIB, GIB);
    terrace *m = open_numa("limit_numa=8M");
    kernel.strict_failures = 1;
    write_pattern(tensor_of(m, 4 * MIB, "t"), 1, 4 * MIB, 1);
    cr_assert_eq(kernel.moves, 2); /* 512 at a time */
    terrace_close(m);
}

Test(numa, a_full_node_is_an_error_and_leaves_nothing_behind)
{
    two_nodes(GIB, GIB);
    terrace *m = open_numa("limit_numa=8M");
    terrace_tensor *t = tensor_of(m, 4 * MIB, "t");
    void *p;
    kernel.strict_failures = 1000;
    kernel.move_error = ENOMEM;
    assert_fails(terrace_acquire(t, 1, TERRACE_OVERWRITE, NULL, &p, NULL), TERRACE_ENOMEM);
    cr_assert(strstr(terrace_last_error(), "node 1"), "%s", terrace_last_error());
    cr_assert(strstr(terrace_last_error(), "TERRACE_LIMIT_NUMA"), "%s", terrace_last_error());
    cr_assert_eq(tier_stats_of(m, 1).used, 0);
    kernel.strict_failures = 0;
    write_pattern(t, 1, 4 * MIB, 1);
    terrace_close(m);
}

Test(numa, a_node_that_is_not_allowed_any_more_is_an_error)
{
    two_nodes(GIB, GIB);
    const terrace_backend *b = NULL;
    terrace *m = open_numa("limit_numa=4M");
    b = m->tier[1].backend;
    uint64_t base = 0;
    kernel.refuse = EINVAL;
    assert_fails(b->reserve(m->tier[1].unit, MIB, 0, &base), TERRACE_ESYSTEM);
    cr_assert(strstr(terrace_last_error(), "node 1"), "%s", terrace_last_error());
    cr_assert_eq(b->adopt(m->tier[1].unit, (uintptr_t)&base, 8), -TERRACE_ESYSTEM);
    kernel.refuse = 0;
    kernel.strict_failures = 2;
    cr_assert_eq(b->adopt(m->tier[1].unit, (uintptr_t)&base, 8), -TERRACE_EBUSY);
    kernel.strict_failures = 2;
    kernel.move_error = ENOMEM;
    cr_assert_eq(b->adopt(m->tier[1].unit, (uintptr_t)&base, 8), -TERRACE_ENOMEM);
    cr_assert_eq(b->adopt(m->tier[1].unit, (uintptr_t)&base, 8), 0);
    terrace_close(m);
}

/* ---- budgets ---------------------------------------------------------------------- */

static void expect_budgets(const char *conf, uint64_t first, uint64_t second, const char *reason)
{
    terrace *m = open_numa(conf);
    terrace_tier_statistics a = tier_stats_of(m, 0), b = tier_stats_of(m, 1);
    cr_assert(a.limit <= first && a.limit + 8192 > first, "%s: numa:0 %llu", conf, (unsigned long long)a.limit);
    cr_assert(b.limit <= second && b.limit + 8192 > second, "%s: numa:1 %llu", conf, (unsigned long long)b.limit);
    cr_assert(strstr(a.limit_reason, reason), "%s: %s", conf, a.limit_reason);
    terrace_close(m);
}

Test(numa, budgets_of_nodes)
{
    uint64_t a = 320 * MIB - 128 * MIB, b = 200 * MIB - 20 * MIB; /* less what the kernel needs */
    two_nodes(320 * MIB, 200 * MIB);
    expect_budgets("", a, b, "node 0: 0.3 GiB free or cached files, less a margin of 0.1 GiB");
    expect_budgets("limit_numa=16M", 16 * MIB, 16 * MIB, "TERRACE_LIMIT_NUMA (default: 192.0 MiB; node 0:");
    expect_budgets("limit_numa=50%", a / 2, b / 2, "TERRACE_LIMIT_NUMA (");
    expect_budgets("limit_numa_0=16M", 16 * MIB, b, "TERRACE_LIMIT_NUMA_0 (");
    expect_budgets("limit_numa_1=16M", a, 16 * MIB, "node 0: 0.3 GiB");
    expect_budgets("limit_host=31M", 16 * MIB, 15 * MIB, "its share of TERRACE_LIMIT_HOST (default: 192.0 MiB;");
    expect_budgets("limit_host=50%", a / 2, b / 2, "its share of TERRACE_LIMIT_HOST (");
    expect_budgets("limit_host=744M", 384 * MIB, 360 * MIB, "its share of TERRACE_LIMIT_HOST (");
    expect_budgets("limit_host=32M;limit_numa_0=24M", 24 * MIB, 8 * MIB, "TERRACE_LIMIT_NUMA_0 (");
    expect_budgets("limit_host=32M;limit_numa_1=24M", 8 * MIB, 24 * MIB, "its share of TERRACE_LIMIT_HOST (");
    expect_budgets("limit_host=32M;limit_numa_0=48M", 32 * MIB, 0, "its share of TERRACE_LIMIT_HOST (");
    expect_budgets("limit_host=32M;limit_numa=24M", 16 * MIB, 16 * MIB, "its share of TERRACE_LIMIT_HOST (");
}

Test(numa, nodes_share_what_the_process_may_take)
{
    two_nodes(3072 * GIB, 1024 * GIB); /* far more than this machine has */
    terrace *m = open_numa("");
    uint64_t a = tier_stats_of(m, 0).limit, b = tier_stats_of(m, 1).limit;
    cr_assert(strstr(tier_stats_of(m, 1).limit_reason, "; its share of "), "%s",
              tier_stats_of(m, 1).limit_reason);
    terrace_close(m);
    cr_assert(a > 2 * b && a < 4 * b, "%llu, %llu", (unsigned long long)a, (unsigned long long)b);
    assert_ok(terrace_open(&m, "tiers=numa:1"));
    uint64_t alone = tier_stats_of(m, 0).limit, sum = a + b;
    cr_assert(alone > sum / 10 * 9 && alone < sum / 10 * 11, "%llu of %llu", (unsigned long long)alone,
              (unsigned long long)sum);
    terrace_close(m);
}

/* ---- huge pages ---------------------------------------------------------------------- */

/* A line of the mapping of an address in /proc/self/smaps, after its name. */
static void map_line(const void *address, const char *name, char line[1024])
{
    FILE *f = fopen("/proc/self/smaps", "r");
    unsigned long start, end;
    char text[1024];
    bool inside = false;
    *line = '\0';
    while (fgets(text, sizeof text, f)) {
        if (sscanf(text, "%lx-%lx ", &start, &end) == 2)
            inside = start <= (uintptr_t)address && (uintptr_t)address < end;
        else if (inside && !strncmp(text, name, strlen(name)))
            memcpy(line, text + strlen(name), strlen(text + strlen(name)) + 1);
    }
    fclose(f);
}

static bool has_flag(const void *address, const char *flag)
{
    char line[1024];
    map_line(address, "VmFlags:", line);
    return strstr(line, flag);
}

static unsigned long huge_kib(const void *address)
{
    char line[1024];
    map_line(address, "AnonHugePages:", line);
    return strtoul(line, NULL, 10);
}

static void expect_pages(const char *conf, const char *flag, const char *reason)
{
    terrace *m = open_numa(conf);
    void *p;
    assert_ok(terrace_acquire(tensor_of(m, 4 * MIB, "t"), 0, TERRACE_OVERWRITE, NULL, &p, NULL));
    cr_assert(has_flag(p, flag), "%s: no %s", conf, flag);
    assert_ok(terrace_acquire(tensor_of(m, MIB, "t"), 0, TERRACE_OVERWRITE, NULL, &p, NULL));
    cr_assert(has_flag(p, " nh"), "%s: small pages", conf);
    cr_assert(strstr(tier_stats_of(m, 0).engine_reason, reason), "%s: %s", conf,
              tier_stats_of(m, 0).engine_reason);
    terrace_close(m);
}

Test(numa, huge_pages_as_asked_for)
{
    two_nodes(GIB, GIB);
    expect_pages("limit_numa=8M", " hg", "; transparent huge pages");
    expect_pages("limit_numa=8M;hugepages=thp", " hg", "; transparent huge pages");
    expect_pages("limit_numa=8M;hugepages=off", " nh", "no huge pages, as TERRACE_HUGEPAGES=off");
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    expect_pages("limit_numa=8M", " hg", "says never");
}

/* Small pages come and go, piece by piece; then the whole is there. */
static char *in_pieces(struct numa_memory *m)
{
    uint64_t base;
    assert_ok(numa_memory_reserve(m, 8 * MIB, 0, &base));
    char *p = (char *)(uintptr_t)base;
    for (uint64_t at = 0; at < 4 * MIB; at += MIB) {
        assert_ok(numa_memory_commit(m, base + at, MIB));
        memset(p + at, 1, MIB);
    }
    cr_assert_eq(huge_kib(p), 0);
    for (uint64_t at = 0; at < 4 * MIB; at += MIB)
        numa_memory_decommit(m, base + at, MIB);
    return p;
}

Test(numa, where_small_pages_have_been_there_are_huge_ones_again)
{
    struct numa_memory m = {.node = -1, .granule = 2 * MIB, .advice = MADV_HUGEPAGE};
    char *p = in_pieces(&m);
    madvise(p, 4 * MIB, MADV_DONTNEED); /* whether the kernel does it at all */
    madvise(p, 4 * MIB, MADV_HUGEPAGE);
    memset(p, 1, 4 * MIB);
    bool possible = huge_kib(p) == 4 << 10;
    numa_memory_release(&m, (uintptr_t)p, 8 * MIB);
    if (!possible)
        cr_skip_test("no huge pages, or a kernel before 6.14");
    p = in_pieces(&m);
    assert_ok(numa_memory_commit(&m, (uintptr_t)p, 4 * MIB + MIB / 2));
    memset(p, 1, 4 * MIB + MIB / 2);
    cr_assert_eq(huge_kib(p), 4 << 10);
    cr_assert_eq(huge_kib(p + 4 * MIB), 0, "not what does not fill one");
    numa_memory_release(&m, (uintptr_t)p, 8 * MIB);
}

Test(numa, huge_pages_that_cannot_be_had_are_warned_about)
{
    char log[64], conf[128], text[512] = "";
    two_nodes(GIB, GIB);
    put("/sys/kernel/mm/transparent_hugepage/enabled", "always madvise [never]\n");
    put("/log", "%s", "");
    snprintf(log, sizeof log, "%s/log", root);
    snprintf(conf, sizeof conf, "limit_numa=8M;hugepages=thp;log_file=%s", log);
    terrace_close(open_numa(conf));
    FILE *f = fopen(log, "r");
    cr_assert(fread(text, 1, sizeof text - 1, f) > 0);
    fclose(f);
    cr_assert(strstr(text, "TERRACE_HUGEPAGES=thp: no huge pages"), "%s", text);
}

/* Where the machine that runs this has a pool, it is used; else it is said why not. */
Test(numa, a_pool_is_used_or_it_is_said_why_not)
{
    two_nodes(GIB, GIB);
    terrace *m = open_numa("limit_numa=8M;hugepages=2m;log=off");
    const char *reason = tier_stats_of(m, 0).engine_reason;
    cr_assert(strstr(reason, "; pages of 2 MiB from the system's pool") ||
              strstr(reason, "; transparent huge pages, as there are none of 2 MiB: "), "%s", reason);
    write_pattern(tensor_of(m, 4 * MIB, "t"), 0, 4 * MIB, 1);
    terrace_close(m);
}
