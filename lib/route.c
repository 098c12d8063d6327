/* route.c - by which way bytes get from one tier to another, for people to read.
 *
 * May call: core.h, mover.h, relay.h. */
#include <stdio.h>

#include "mover.h"
#include "relay.h"

static const struct tier *host_between(struct terrace *m, const struct tier *a, const struct tier *b)
{
    for (unsigned i = 0; i < m->tiers; i++) {
        const struct tier *host = &m->tier[i];
        if (host != a && host != b && (host->backend->caps & TERRACE_CAP_CPU) && transfer_lane(a, host) &&
            transfer_lane(host, b))
            return host;
    }
    return NULL;
}

int terrace_route(terrace *m, terrace_tier from, terrace_tier to, char *buf, size_t len)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (from < 0 || to < 0 || (unsigned)from >= m->tiers || (unsigned)to >= m->tiers || from == to || !buf || len == 0)
        return error_set(-TERRACE_EINVAL, "terrace_route: %d and %d are not two tiers of this manager, or buf is NULL",
                         from, to);
    const struct tier *a = &m->tier[from], *b = &m->tier[to], *host;
    if (transfer_lane(a, b))
        snprintf(buf, len, "direct");
    else if ((host = relay_between(a, b)) != NULL)
        snprintf(buf, len, "through staging memory of %s", host->name);
    else if ((host = host_between(m, a, b)) != NULL)
        snprintf(buf, len, "by way of %s", host->name);
    else
        return error_set(-TERRACE_ENOTSUP, "no route leads from %s to %s: there is no host tier between them", a->name,
                         b->name);
    return 0;
}
