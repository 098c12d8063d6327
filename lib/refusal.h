/* refusal.h - has the kernel refuse a fork.
 * May call: nothing of the library. */
#ifndef TERRACE_LIB_REFUSAL_H
#define TERRACE_LIB_REFUSAL_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/resource.h>

struct refusal {
    void *memory; /* that cannot be promised twice, or NULL */
    size_t bytes;
    bool limited;            /* the number of processes is */
    struct rlimit processes; /* as it was */
};

/* From here to refusal_end() fork() fails with ENOMEM or EAGAIN. False: it does not. */
bool refusal_begin(struct refusal *r);
/* Also in a child that there is nevertheless. */
void refusal_end(struct refusal *r);

#endif
