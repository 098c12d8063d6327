/* share.h - a manager's part in host memory that processes share.
 * May call: core.h. */
#ifndef TERRACE_LIB_SHARE_H
#define TERRACE_LIB_SHARE_H

#include "core.h"

/* With TERRACE_SHARED, has all host tiers charged to that account, too. Before any of
 * their memory is used. Errors: as account_join(); ESYSTEM (no thread). */
int  share_open(struct terrace *m);
void share_stop(struct terrace *m);  /* gives nothing any more; while tensors can still be created */
void share_close(struct terrace *m); /* after the tiers' memory is given back */
/* The process ends, and has not closed the manager. */
void share_end(struct terrace *m);

#endif
