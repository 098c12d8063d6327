/* stable.c - address-stable memory: not in this build, and it says so.
 *
 * May call: error.h. */
#include "core.h"

static int not_here(const char *what)
{
    return error_set(-TERRACE_ENOTSUP, "%s: this build has no address-stable memory; use "
                     "terrace_tensor_create() and terrace_acquire()", what);
}

void *terrace_malloc(terrace *m, size_t bytes, terrace_tier tier, const terrace_tensor_attr *attr)
{
    (void)bytes, (void)tier, (void)attr;
    if (manager_check(m) == 0)
        not_here("terrace_malloc");
    return NULL;
}

void terrace_free(terrace *m, void *p)
{
    (void)m, (void)p; /* only NULL can come here */
}

int terrace_advise(terrace *m, void *p, size_t bytes, int advice, terrace_tier tier)
{
    (void)p, (void)bytes, (void)advice, (void)tier;
    int r = manager_check(m);
    return r ? r : not_here("terrace_advise");
}

int terrace_safepoint(terrace *m, terrace_tier tier, void *stream)
{
    (void)tier, (void)stream;
    int r = manager_check(m);
    return r ? r : not_here("terrace_safepoint");
}
