/* budget.h - how much host memory this process may take.
 * May call: error.h, libc. Pure functions of the files they are given, so that
 * tests can hand in made-up cgroup trees. */
#ifndef TERRACE_LIB_BUDGET_H
#define TERRACE_LIB_BUDGET_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Where to look: "" for the real system, else a folder that stands for "/". */
struct budget_root {
    const char *root;
};

/* Bytes of host memory that can still be taken without reclaim or the OOM
 * killer: the least of MemAvailable and, for each memory cgroup from the
 * process's own up to the root (v1 and v2, v1 hierarchical limits too), its
 * limit less its usage plus its inactive page cache; less a margin of 5 %,
 * at least 128 MiB (a tenth where that would leave less than half).
 * Writes a sentence for people into reason: "cgroup v1 /a/b: limit 1.0 GiB,
 * 12.0 MiB in use, less a margin of 128.0 MiB". Never fails: what cannot be
 * read is left out, and if nothing can, the answer is half of physical memory. */
uint64_t budget_host_available(const struct budget_root *where, char *reason, size_t len);

/* Divides `sum` among budgets: those marked as fixed stay as they are, the
 * others get what is left, in proportion to what they had. Where the fixed ones
 * alone are more than the sum, they shrink in proportion to it, and the others
 * get nothing. Rounds down. */
void budget_divide(uint64_t *budget, const bool *fixed, size_t n, uint64_t sum);

#endif
