/* top.h - what the files of `terrace top` share.
 * May call: cli.h, live_page.h, libc. */
#ifndef TERRACE_CLI_TOP_H
#define TERRACE_CLI_TOP_H

#include <sys/types.h>

#include "cli.h"
#include "live_page.h"

/* A manager of a process, as it was at a moment. */
struct top_manager {
    pid_t process;
    char name[32];      /* the program's */
    uint64_t read_at;   /* CLOCK_MONOTONIC */
    struct live_page page, before; /* now, and when it was last looked at */
    bool seen, known;   /* it is still there; `before` says something */
};

struct top_list {
    struct top_manager **manager;
    size_t n, room;
};

/* ---- top_read.c ---- */

/* Finds the managers of a process, 0: of all that may be looked into, and reads what
 * they say. Those that are gone are dropped. False: no memory. `why` says, of one
 * process, why there is nothing to be seen. */
bool top_read(struct top_list *list, pid_t process, char *why, size_t len);
void top_free(struct top_list *list);

/* ---- top_show.c ---- */

enum top_sort { SORT_TRAFFIC, SORT_USED, SORT_HITS, SORT_STALLS, SORT_PID, SORTS };
extern const char *const top_sorts[SORTS];

/* A line for each manager, sorted; all about each; the same for programs, in a line. */
void top_show_list(struct top_list *list, enum top_sort by, FILE *out);
void top_show_process(const struct top_list *list, FILE *out);
void top_show_json(const struct top_list *list, FILE *out);

#endif
