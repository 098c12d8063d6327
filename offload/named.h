/* named.h - whether somebody asked for tiers of a kind by name.
 * May call: terrace_backend.h, libc. */
#ifndef TERRACE_OFFLOAD_NAMED_H
#define TERRACE_OFFLOAD_NAMED_H

#include <stdbool.h>
#include <string.h>

#include "terrace_backend.h"

/* Whether TERRACE_TIERS has "opencl" or "opencl:N". */
static inline bool kind_is_named(const terrace_host *host, const char *kind)
{
    const char *p = host->option(host->context, "TIERS");
    size_t n = strlen(kind);
    for (; p && *p; p += strcspn(p, ", "), p += strspn(p, ", "))
        if (strncmp(p, kind, n) == 0 && strchr(":, ", p[n]))
            return true;
    return false;
}

#endif
