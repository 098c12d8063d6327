/* The host budget over made-up machines: a folder stands for "/". */
#define _GNU_SOURCE
#include <criterion/criterion.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "budget.h"

#define MIB ((uint64_t)1 << 20)
#define GIB ((uint64_t)1 << 30)
#define V1_NONE "9223372036854771712\n"

static char root[] = "/tmp/terrace-budget-XXXXXX";
static char reason[160];

static void make_root(void)
{
    cr_assert_not_null(mkdtemp(root));
}

static void remove_root(void)
{
    char command[100];
    snprintf(command, sizeof command, "rm -rf '%s'", root);
    cr_expect_eq(system(command), 0);
}

TestSuite(budget, .init = make_root, .fini = remove_root);

/* Writes a file and the folders above it. */
__attribute__((format(printf, 2, 3))) static void put(const char *path, const char *format, ...)
{
    char full[1024], command[2048];
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

static void machine(uint64_t available)
{
    put("/proc/meminfo", "MemTotal: 99999999 kB\nMemFree: 1 kB\nMemAvailable: %" PRIu64 " kB\n",
        available >> 10);
}

static void v1_mount(const char *mount_root, const char *group)
{
    put("/proc/self/cgroup", "7:cpu,cpuacct:/other\n4:hugetlb,memory:%s\n0::/unified\n", group);
    put("/proc/self/mountinfo",
        "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw\n"
        "32 31 0:29 / /sys/fs/cgroup/cpu rw shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:32 %s /sys/fs/cgroup/memory rw shared:10 master:3 - cgroup cgroup rw,memory\n",
        mount_root);
}

static void v1_group(const char *path, const char *limit, uint64_t usage, uint64_t inactive,
                     const char *hierarchical)
{
    char name[256];
    snprintf(name, sizeof name, "/sys/fs/cgroup/memory%s/memory.limit_in_bytes", path);
    put(name, "%s", limit);
    snprintf(name, sizeof name, "/sys/fs/cgroup/memory%s/memory.usage_in_bytes", path);
    put(name, "%" PRIu64 "\n", usage);
    snprintf(name, sizeof name, "/sys/fs/cgroup/memory%s/memory.stat", path);
    put(name, "cache 1\ninactive_file 77\nhierarchical_memory_limit %s\ntotal_inactive_file %" PRIu64
              "\n", hierarchical, inactive);
}

static void v2_mount(const char *mount_root, const char *group)
{
    put("/proc/self/cgroup", "0::%s\n", group);
    put("/proc/self/mountinfo",
        "30 23 0:26 %s /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", mount_root);
}

static void v2_group(const char *path, const char *max, uint64_t usage, uint64_t inactive)
{
    char name[256];
    snprintf(name, sizeof name, "/sys/fs/cgroup%s/memory.max", path);
    put(name, "%s\n", max);
    snprintf(name, sizeof name, "/sys/fs/cgroup%s/memory.current", path);
    put(name, "%" PRIu64 "\n", usage);
    snprintf(name, sizeof name, "/sys/fs/cgroup%s/memory.stat", path);
    put(name, "anon 5\nfile 6\ninactive_file %" PRIu64 "\n", inactive);
}

static uint64_t answer(void)
{
    struct budget_root where = {root};
    return budget_host_available(&where, reason, sizeof reason);
}

static void expect(uint64_t available, const char *sentence)
{
    uint64_t got = answer();
    cr_assert_eq(got, available, "%" PRIu64 " MiB of %" PRIu64 ": %s", got / MIB, available / MIB,
                 reason);
    cr_assert(strstr(reason, sentence), "\"%s\" lacks \"%s\"", reason, sentence);
}

/* ---- the machine --------------------------------------------------------- */

Test(budget, mem_available_less_five_percent)
{
    machine(20 * GIB);
    expect(19 * GIB, "MemAvailable 20.0 GiB, less a margin of 1.0 GiB");
}

Test(budget, the_margin_is_at_least_128_mib)
{
    machine(1 * GIB);
    expect(1 * GIB - 128 * MIB, "less a margin of 128.0 MiB");
}

Test(budget, the_margin_leaves_more_than_half)
{
    machine(200 * MIB);
    expect(180 * MIB, "less a margin of 20.0 MiB");
}

Test(budget, with_nothing_to_read_it_is_half_of_physical_memory)
{
    uint64_t pages = (uint64_t)sysconf(_SC_PHYS_PAGES); /* some machines have an odd number of them */
    expect(pages / 2 * (uint64_t)sysconf(_SC_PAGESIZE), "half of physical memory");
}

/* ---- v1 ------------------------------------------------------------------ */

Test(budget, v1_limit_less_usage_plus_inactive_cache)
{
    machine(20 * GIB);
    v1_mount("/", "/a/b");
    v1_group("/a/b", "4294967296\n", 2 * GIB, 1 * GIB, V1_NONE);
    expect(3 * GIB - 3 * GIB / 20,
           "cgroup v1 /a/b: limit 4.0 GiB, 1.0 GiB in use, less a margin of 153.6 MiB");
}

Test(budget, v1_the_tightest_ancestor_counts)
{
    machine(20 * GIB);
    v1_mount("/", "/a/b");
    v1_group("", V1_NONE, 9 * GIB, 0, V1_NONE);
    v1_group("/a", "4294967296\n", 3 * GIB, 0, V1_NONE);
    v1_group("/a/b", "3221225472\n", 1 * GIB, 0, V1_NONE);
    expect(1 * GIB - 128 * MIB, "cgroup v1 /a: limit 4.0 GiB, 3.0 GiB in use");
}

Test(budget, v1_a_limit_out_of_sight_counts)
{
    machine(20 * GIB);
    v1_mount("/docker/1", "/docker/1");
    v1_group("", V1_NONE, 1 * GIB, 0, "3221225472");
    expect(2 * GIB - 128 * MIB, "cgroup v1 /: limit 3.0 GiB, 1.0 GiB in use");
}

Test(budget, v1_no_limit_leaves_the_machine)
{
    machine(20 * GIB);
    v1_mount("/", "/a");
    v1_group("/a", V1_NONE, 1 * GIB, 0, V1_NONE);
    expect(19 * GIB, "MemAvailable");
}

Test(budget, in_a_container_the_mount_itself_is_the_group)
{
    machine(20 * GIB);
    v1_mount("/", "/docker/0123/not/here");
    v1_group("", "2147483648\n", 0, 0, V1_NONE);
    expect(2 * GIB - 128 * MIB, "cgroup v1 /: limit 2.0 GiB");
}

Test(budget, a_mount_rooted_at_the_group_is_found_by_what_is_below)
{
    machine(20 * GIB);
    v1_mount("/docker/1", "/docker/1/child");
    v1_group("/child", "2147483648\n", 0, 0, V1_NONE);
    v1_group("", "4294967296\n", 0, 0, V1_NONE);
    expect(2 * GIB - 128 * MIB, "cgroup v1 /child: limit 2.0 GiB");
}

Test(budget, a_prefix_of_a_name_is_not_a_parent)
{
    machine(20 * GIB);
    v1_mount("/docker/1", "/docker/12");
    v1_group("2", "1073741824\n", 0, 0, V1_NONE); /* ".../memory2" */
    v1_group("", "4294967296\n", 0, 0, V1_NONE);
    expect(4 * GIB - 4 * GIB / 20, "cgroup v1 /: limit 4.0 GiB");
}

Test(budget, usage_beyond_the_limit_leaves_nothing)
{
    machine(20 * GIB);
    v1_mount("/", "/a");
    v1_group("/a", "1073741824\n", 2 * GIB, 0, V1_NONE);
    expect(0, "limit 1.0 GiB, 2.0 GiB in use");
}

/* ---- v2 ------------------------------------------------------------------ */

Test(budget, v2_limit_less_usage_plus_inactive_cache)
{
    machine(20 * GIB);
    v2_mount("/", "/user.slice/job");
    v2_group("/user.slice", "max", 7 * GIB, 0);
    v2_group("/user.slice/job", "4294967296", 2 * GIB, 1 * GIB);
    expect(3 * GIB - 3 * GIB / 20, "cgroup v2 /user.slice/job: limit 4.0 GiB, 1.0 GiB in use");
}

Test(budget, v2_the_tightest_ancestor_counts)
{
    machine(20 * GIB);
    v2_mount("/", "/a/b/c");
    v2_group("/a", "2147483648", 1 * GIB, 0);
    v2_group("/a/b", "max", 0, 0);
    v2_group("/a/b/c", "max", 0, 0);
    expect(1 * GIB - 128 * MIB, "cgroup v2 /a: limit 2.0 GiB");
}

Test(budget, v2_throttling_counts_as_a_limit)
{
    machine(20 * GIB);
    v2_mount("/", "/a");
    v2_group("/a", "4294967296", 0, 0);
    put("/sys/fs/cgroup/a/memory.high", "2147483648\n");
    expect(2 * GIB - 128 * MIB, "limit 2.0 GiB");
}

Test(budget, v2_in_a_namespace_that_hides_the_parents)
{
    machine(20 * GIB);
    v2_mount("/../..", "/../../x");
    v2_group("", "2147483648", 0, 0);
    expect(2 * GIB - 128 * MIB, "cgroup v2 /: limit 2.0 GiB");
}

Test(budget, v2_a_group_beside_our_namespace_is_not_looked_up_by_its_dots)
{
    machine(20 * GIB);
    v2_mount("/", "/../sibling");
    v2_group("", "4294967296", 0, 0);
    v2_group("/../sibling", "1073741824", 0, 0);
    expect(4 * GIB - 4 * GIB / 20, "cgroup v2 /: limit 4.0 GiB");
}

Test(budget, v2_max_everywhere_leaves_the_machine)
{
    machine(20 * GIB);
    v2_mount("/", "/a");
    v2_group("/a", "max", 1 * GIB, 0);
    put("/sys/fs/cgroup/a/memory.high", "max\n");
    expect(19 * GIB, "MemAvailable");
}

/* ---- mixtures ------------------------------------------------------------ */

Test(budget, hybrid_systems_keep_memory_in_v1)
{
    machine(20 * GIB);
    v1_mount("/", "/a");
    put("/proc/self/mountinfo",
        "38 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
        "33 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n");
    put("/sys/fs/cgroup/unified/unified/cgroup.procs", "1\n");
    v1_group("/a", "2147483648\n", 0, 0, V1_NONE);
    expect(2 * GIB - 128 * MIB, "cgroup v1 /a");
}

Test(budget, a_bind_mount_of_another_group_is_passed_over)
{
    machine(20 * GIB);
    put("/proc/self/cgroup", "0::/mine\n");
    put("/proc/self/mountinfo",
        "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
        "31 23 0:26 /other /mnt/other rw - cgroup2 cgroup2 rw\n");
    v2_group("/mine", "4294967296", 0, 0);
    put("/mnt/other/memory.max", "1048576\n");
    expect(4 * GIB - 4 * GIB / 20, "cgroup v2 /mine: limit 4.0 GiB");
}

Test(budget, a_mount_point_may_contain_blanks)
{
    machine(20 * GIB);
    put("/proc/self/cgroup", "0::/\n");
    put("/proc/self/mountinfo", "30 23 0:26 / /sys/my\\040groups rw - cgroup2 cgroup2 rw\n");
    put("/sys/my groups/memory.max", "2147483648\n");
    expect(2 * GIB - 128 * MIB, "limit 2.0 GiB, 0 B in use");
}

Test(budget, nonsense_in_the_files_is_left_out)
{
    machine(20 * GIB);
    put("/proc/self/cgroup", "\n:\n::\nmemory\n0::/a\n");
    put("/proc/self/mountinfo", "\n-\n - \n1 2 3 - cgroup2 x y\n - cgroup\n"
                                "30 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n");
    put("/sys/fs/cgroup/a/memory.max", "lots\n");
    expect(19 * GIB, "MemAvailable");
}

Test(budget, the_real_machine_has_an_answer)
{
    struct budget_root where = {""};
    uint64_t physical = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
    uint64_t got = budget_host_available(&where, reason, sizeof reason);
    cr_assert_gt(got, 0);
    cr_assert_lt(got, physical);
    cr_assert_gt(strlen(reason), 0);
}

/* ---- several tiers ------------------------------------------------------- */

static void divided(uint64_t a, bool fixed_a, uint64_t b, bool fixed_b, uint64_t sum, uint64_t want_a,
                    uint64_t want_b)
{
    uint64_t budget[] = {a, b};
    budget_divide(budget, (const bool[]){fixed_a, fixed_b}, 2, sum);
    cr_assert(budget[0] == want_a && budget[1] == want_b, "%" PRIu64 ", %" PRIu64, budget[0], budget[1]);
}

Test(budget, a_sum_is_divided_in_proportion)
{
    divided(300, false, 100, false, 40, 30, 10);
    divided(300, false, 100, false, 800, 600, 200);
    divided(2, false, 1, false, 100, 66, 33);
    divided(0, false, 0, false, 100, 0, 0);
    divided(300, false, 100, false, 0, 0, 0);
    divided(UINT64_MAX / 2, false, UINT64_MAX / 2, false, UINT64_MAX, UINT64_MAX / 2, UINT64_MAX / 2);
}

Test(budget, fixed_parts_are_kept_as_long_as_the_sum_allows)
{
    divided(30, true, 100, false, 40, 30, 10);
    divided(40, true, 100, false, 40, 40, 0);
    divided(60, true, 100, false, 40, 40, 0);
    divided(60, true, 20, true, 40, 30, 10);
    divided(10, true, 20, true, 40, 10, 20);
    uint64_t none;
    budget_divide(&none, NULL, 0, 1);
}
