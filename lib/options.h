/* options.h - every setting, from environment and conf string to checked values.
 *
 * options.def is the one table: parser, `terrace help env`, the man page and
 * the README's section are made from it.
 * May call: error.h, log.h, libc. */
#ifndef TERRACE_LIB_OPTIONS_H
#define TERRACE_LIB_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct log;

/* OPTION(id, name, kind, default, choices, example, meaning, status) */
enum option_id {
#define OPTION(id, ...) OPT_##id,
#include "options.def"
#undef OPTION
    OPT_COUNT
};

struct option_value {
    char *text;      /* as given or the default; NULL: unset and no default */
    uint64_t number; /* sizes: bytes; choices: the index into the choices; booleans: 0, 1 */
    bool set;        /* given by the user */
    bool from_conf;  /* by the conf string rather than the environment */
};

enum { OPTIONS_MAX_LIMITS = 32 };

/* One TERRACE_LIMIT_<KIND> or TERRACE_LIMIT_<KIND>_<N>. */
struct option_limit {
    char name[32];   /* "NUMA", "NUMA_0", "HOST" */
    uint64_t bytes;  /* where percent is 0 */
    double percent;  /* of the default budget, 0 < p <= 100 */
};

struct options {
    struct option_value value[OPT_COUNT];
    struct option_limit limit[OPTIONS_MAX_LIMITS];
    unsigned limits;
    char *unknown[16]; /* warnings ready to log: unknown names with the nearest known one */
    unsigned unknowns;
};

/* Reads the environment, then conf (may be NULL) over it, and checks every
 * value. On failure the sentence names variable, value and what is accepted,
 * and nothing needs freeing. Errors: ECONFIG, ENOTSUP (status says this build
 * does not have it and the user set it), ENOMEM. An unknown key in conf is an
 * error; an unknown TERRACE_* in the environment becomes a warning. */
int options_parse(struct options *o, const char *conf);
void options_free(struct options *o);

/* The value by the name without prefix ("NVME_PATH"), NULL where unset or
 * unknown. */
const char *options_text(const struct options *o, const char *name);

/* Finds the limit given for a tier kind and index, or for a class or kind as a
 * whole with index -1 ("HOST"). False where none was given. The most specific
 * one wins: LIMIT_NUMA_0 over LIMIT_NUMA. kind in lower case. */
bool options_limit(const struct options *o, const char *kind, int index, struct option_limit *out);

/* "8G", "512MiB", "1.5g", "4096", "2 TiB" to bytes, powers of 1024. False if
 * it does not parse, is negative or overflows. */
bool options_parse_size(const char *text, uint64_t *out);

#endif
