/* cli.h - what the files of the command share.
 * May call: terrace.h, libc. */
#ifndef TERRACE_CLI_H
#define TERRACE_CLI_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "terrace.h"

/* Exit statuses of the command. */
enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };

/* Says "terrace: WHAT: why", from terrace_last_error(); returns EXIT_FAILED. */
int cli_failed(const char *what);

/* ---- info.c ---- */

int info_run(int argc, char **argv);
void size_text(uint64_t bytes, char *buf, size_t len); /* "1.5 GiB" */

/* ---- routes.c ---- */

int routes_show(terrace *m, bool measured, bool json);

/* ---- run.c ---- */

int run_run(int argc, char **argv);

/* ---- certify.c ---- */

int backend_check_run(int argc, char **argv);

/* ---- rules.c ---- */

int rules_run(int argc, char **argv);

/* ---- top.c ---- */

int top_run(int argc, char **argv);

/* ---- measure.c ---- */

/* Bytes per second into and out of a tier; 0: not measured. */
struct bandwidth {
    double write, read;
    const char *why_not; /* NULL if measured */
};

/* Writes and reads tensors through the public API, at most a few hundred MiB
 * and a quarter of what is free in a budget. 0 or a negative TERRACE_E... */
int measure_tier(terrace *m, terrace_tier tier, struct bandwidth *out);

/* Moves tensors from one tier to another, as a program would. out->write: bytes per
 * second. */
int measure_route(terrace *m, terrace_tier from, terrace_tier to, struct bandwidth *out);

/* Copies memory of one host tier to another with the CPU, in the same amounts.
 * out->write: bytes per second. */
int measure_copy(terrace *m, terrace_tier from, terrace_tier to, struct bandwidth *out);

/* ---- docs.c: texts made from options.def and the list of errors ---- */

enum docs_format { DOCS_TEXT, DOCS_MAN, DOCS_README };

void docs_options(enum docs_format format, FILE *out);
void docs_errors(enum docs_format format, FILE *out);

/* The README's map of source files: name and first sentence of each. */
void docs_files(char *const *paths, FILE *out);

/* Copies in to out; what stands between a line with "generated: options" (or
 * errors, or files) and the next with "end of generated" is made anew. */
int docs_fill(enum docs_format format, char *const *paths, FILE *in, FILE *out);

#endif
