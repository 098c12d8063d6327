/* cuda_capacity.c - how much memory a program hears that a device has.
 *
 * By default what the driver says. A program that asks for as much as there is would then
 * never use more; TERRACE_REPORT_CAPACITY=expanded tells it of what it could have.
 *
 * May call: terrace.h, cuda_memory.c, guard.c. */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "cuda_hooks.h"

static bool is_expanded(void)
{
    const char *text = getenv("TERRACE_REPORT_CAPACITY");
    return text && strcasecmp(text, "expanded") == 0;
}

static uint64_t left_of(const terrace_tier_statistics *s)
{
    return s->limit > s->used ? s->limit - s->used : 0;
}

/* The device's budget and that of the host tier next to it, or of the first. */
static void add_up(terrace *m, terrace_tier tier, size_t *unused, size_t *all)
{
    terrace_tier_statistics device = {.size = sizeof device}, host = {.size = sizeof host}, s = {.size = sizeof s};
    bool found = false;
    if (terrace_tier_stats(m, tier, &device))
        return;
    for (terrace_tier i = 0; terrace_tier_stats(m, i, &s) == 0; i++)
        if (strcmp(s.tier_class, "host") == 0 && (!found || s.node == device.node)) {
            host = s;
            found = true;
        }
    *all = device.limit + (found ? host.limit : 0);
    *unused = left_of(&device) + (found ? left_of(&host) : 0);
}

void memory_tell(size_t *unused, size_t *all)
{
    struct guard g;
    terrace_tier tier;
    int device;
    if (!is_expanded() || inside || !driver.cuCtxGetDevice || driver.cuCtxGetDevice(&device))
        return;
    guard_enter(&g);
    terrace *m = memory_manager(device, &tier);
    if (m)
        add_up(m, tier, unused, all);
    guard_leave(&g);
}
