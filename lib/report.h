/* report.h - the report when a manager closes or the process ends.
 * May call: core.h. */
#ifndef TERRACE_LIB_REPORT_H
#define TERRACE_LIB_REPORT_H

#include <stdio.h>

#include "core.h"

/* ---- report.c ---- */

/* Settles where it goes, while the folder is that in which the setting was made. */
void report_open(struct terrace *m);
/* Writes the report where TERRACE_REPORT asks for one; before tensors go. */
void report_write(struct terrace *m);

/* All that it says. */
struct report {
    const struct terrace *m; /* for what does not change */
    uint64_t ns;             /* since the manager was opened */
    terrace_statistics stats;
    unsigned tiers;
    terrace_tier_statistics tier[MAX_TIERS];
    struct route route[MAX_TIERS][MAX_TIERS];
    uint64_t trace_written, trace_lost; /* events of the timeline */
};

/* ---- report_text.c, report_forms.c: how ---- */

void report_as_text(const struct report *r, FILE *f);
void report_as_json(const struct report *r, FILE *f);
void report_as_prometheus(const struct report *r, FILE *f);

#endif
