/* vm_adopt.c - pages that move to another NUMA node under their addresses.
 * Runs in the virtual machine of check.sh. */
#define _GNU_SOURCE
#include "../backend_stub.h"
#include "look.h"

enum { KIB = 1 << 10, MIB = 1 << 20 };

static const terrace_backend *numa;

static void *open_unit(int index)
{
    terrace_unit_info info = {.size = sizeof info};
    void *unit;
    numa = backend_named("numa");
    cr_assert_eq(numa->open(&stub_host, index, &info, &unit), 0, "%s", stub.sentence);
    cr_assert_eq(info.node, index);
    return unit;
}

static void adopt_pages(int advice)
{
    void *unit[2] = {open_unit(0), open_unit(1)};
    size_t bytes = 16 * MIB;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    madvise(p, bytes, advice);
    pattern_fill(p, bytes - MIB, 9); /* the last part has no pages */
    for (int node = 1; node >= 0; node--) {
        cr_assert_eq(numa->adopt(unit[node], (uintptr_t)p, bytes), 0);
        assert_all_on(node, p, bytes - MIB);
        cr_assert(pattern_is(p, bytes - MIB, 9));
    }
    cr_assert_eq(numa->adopt(unit[1], (uintptr_t)p + 4 * MIB, 64 * KIB), 0);
    assert_all_on(1, p + 4 * MIB, 64 * KIB);
    numa->close(unit[0]);
    numa->close(unit[1]);
}

Test(adopt, pages_move_and_keep_their_address)
{
    adopt_pages(MADV_NOHUGEPAGE);
}

Test(adopt, huge_pages_move_and_keep_their_address)
{
    adopt_pages(MADV_HUGEPAGE);
}

Test(adopt, pages_do_not_move_to_a_full_node)
{
    void *unit = open_unit(1);
    size_t bytes = free_on(1) + 32 * MIB;
    char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    pattern_fill(p, bytes, 5);
    int r = numa->adopt(unit, (uintptr_t)p, bytes);
    cr_assert_eq(r, -TERRACE_ENOMEM, "%d; %zu of %zu pages moved", r, pages_on(1, p, bytes), bytes / 4096);
    cr_assert(pattern_is(p, bytes, 5));
    numa->close(unit);
}
