/* report.h - the report at close.
 * May call: core.h. */
#ifndef TERRACE_LIB_REPORT_H
#define TERRACE_LIB_REPORT_H

#include "core.h"

/* Writes the report where TERRACE_REPORT asks for one; before tensors go. */
void report_write(struct terrace *m);

#endif
