/* process.h - one manager for a whole process: that of libterrace-preload.so.
 * May call: core.h.
 *
 * Those with a public name are exported for the preloaded library, which comes
 * with this one: they are no part of the contract. */
#ifndef TERRACE_LIB_PROCESS_H
#define TERRACE_LIB_PROCESS_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#include "terrace.h"

/* The preloaded library is in this process: from here on terrace_open() without
 * settings of its own gives the process's manager. Before anything else. */
TERRACE_API void terrace_process_begin(void);

/* Bytes from which on a block is to be tiered (TERRACE_MIN_SIZE). A value that
 * cannot be used is found out by terrace_process_open(). */
TERRACE_API size_t terrace_process_threshold(void);

/* The process's manager, as the environment has it, for programs that know nothing
 * of terrace. Errors: as terrace_open(); EAGAIN as long as the libraries that this
 * one needs are not initialised; ENOTSUP where their memory cannot be
 * tiered: no userfaultfd that serves system calls, too. */
TERRACE_API int terrace_process_open(terrace **out);

/* Whole blocks of 2 MiB in [p, p + bytes), where p begins one, read as zeros from now on. */
TERRACE_API void terrace_process_discard(terrace *m, void *p, size_t bytes);

/* fork_now(), but where the child would lack stable memory: then ENOMEM. */
TERRACE_API pid_t terrace_process_fork(pid_t (*fork_now)(void));

/* When the process ends: the report and the rest of the timeline, where they are
 * asked for. */
TERRACE_API void terrace_process_report(void);

/* A path for TERRACE_SHARED that nobody has used; removes what processes that were
 * killed have left under others. */
TERRACE_API void terrace_process_name_shared(char *buf, size_t len);

/* ---- manager.c ---- */

/* The process's manager for who asks for these settings, or its failure; 1: a
 * manager of its own. */
int  process_join(const char *conf, terrace **out);
/* True: others still use it. */
bool process_leave(terrace *m);

/* ---- torch/ ---- */

/* The process's manager, as the environment has it: from here on there is one, also
 * where nothing is preloaded. It may be one that the program has opened before. */
int process_share(terrace **out);

/* ---- tiers.c ---- */

/* Whether this thread opens the process's manager just now: what devices there are is
 * the program's in the first place. */
bool process_is_opening(void);
/* And for memory of the host: what the program does with devices, and whether it is this
 * process that will, is not known yet. */
bool process_opens_hosts(void);

#endif
