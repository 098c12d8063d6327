/* gpt_input.h - what gpt.c is told: its arguments, and the text to learn. */
#ifndef GPT_INPUT_H
#define GPT_INPUT_H

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <terrace.h>

#include "gpt_compute.h"

#define MIB (1024.0 * 1024.0)
#define LICENCES "/usr/share/common-licenses"

__attribute__((format(printf, 2, 3), noreturn)) static void die(int status, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    fputs(PROGRAM ": ", stderr);
    vfprintf(stderr, format, args);
    fputc('\n', stderr);
    va_end(args);
    exit(status);
}

static void check(int rc, const char *what)
{
    if (rc)
        die(1, "%s: %s", what, terrace_last_error());
}

static void *need(void *p)
{
    if (!p)
        die(1, "out of memory");
    return p;
}

static double seconds(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- arguments --------------------------------------------------------- */

typedef struct config {
    const char *data, *host_limit, *json;
    long layers, width, heads, context, batch, steps, seed, threads;
    double rate;
    int hash, check_gradients;
    const char *trace, *hbm_limit; /* the latter on a device only, as what follows */
    int own_products;
} config;

typedef struct argument {
    const char *name, *value, *help;
    void *to; /* by `value`: N a long, X a double, NULL an int, else a string */
    long min, max;
} argument;

enum { ARGUMENTS = ON_DEVICE ? 16 : 15 };

static void arguments_list(config *c, argument list[ARGUMENTS])
{
    const argument all[ARGUMENTS] = {
        {"--data", "FILE", "text to learn; default: the licences in " LICENCES, &c->data, 0, 0},
        {"--layers", "N", "transformer blocks", &c->layers, 1, 1000},
        {"--width", "N", "size of the residual stream", &c->width, 8, 65536},
        {"--heads", "N", "attention heads, a divisor of the width", &c->heads, 1, 1024},
        {"--context", "N", "bytes of text in a sequence", &c->context, 2, 65536},
        {"--batch", "N", "sequences in a step", &c->batch, 1, 65536},
        {"--steps", "N", "steps to train", &c->steps, 1, 1000000000},
        {"--rate", "X", "learning rate after warm-up", &c->rate, 0, 0},
        {"--seed", "N", "of weights and of the choice of text", &c->seed, 0, 1000000000},
        {"--host-limit", "SIZE", "memory for tensors, e.g. 256M; default: terrace's", &c->host_limit,
         0, 0},
        {"--trace", "FILE", "write the accesses there, as bench/bound.py reads them", &c->trace, 0, 0},
        {"--json", "FILE", "write the results there", &c->json, 0, 0},
        {"--hash", NULL, "print a hash (64-bit FNV-1a) of all final weights and moments", &c->hash,
         0, 0},
        {"--check-gradients", NULL, "", &c->check_gradients, 0, 0},
#ifndef GPT_CUDA
        {"--threads", "N", "compute threads; default: OpenMP's", &c->threads, 1, 4096},
#else
        {"--hbm-limit", "SIZE", "memory of the device for tensors; default: terrace's",
         &c->hbm_limit, 0, 0},
        {"--own-products", NULL, "matrix products by the program's own kernel, not by cuBLAS",
         &c->own_products, 0, 0},
#endif
    };
    memcpy(list, all, sizeof all);
}

static void arguments_help(const config *c, const argument *list)
{
    puts("Usage: " PROGRAM " [OPTION...]\nTrains a byte-level GPT " PROGRAM_WHERE "with all of its state in terrace tensors.\n");
    for (int i = 0; i < ARGUMENTS; i++) {
        const argument *a = &list[i];
        char left[40], value[40] = "";
        if (!*a->help)
            continue;
        snprintf(left, sizeof left, "%s %s", a->name, a->value ? a->value : "");
        if (a->to == &c->rate)
            snprintf(value, sizeof value, " (%g)", c->rate);
        else if (a->value && *a->value == 'N' && a->to != &c->threads)
            snprintf(value, sizeof value, " (%ld)", *(long *)a->to);
        printf("  %-20s %s%s\n", left, a->help, value);
    }
    printf("  %-20s this text\n\nterrace's own settings are environment variables: see terrace help env.\n",
           "--help");
#ifdef DEFAULT_RULES
    puts("Where weights and optimizer state are, and are computed with, is up to TERRACE_RULES (see terrace help\n"
         "rules), by default:\n  " DEFAULT_RULES);
#endif
}

static void argument_set(const argument *a, const char *text)
{
    char *end = NULL;
    errno = 0;
    if (strcmp(a->value, "N") == 0) {
        long n = strtol(text, &end, 10);
        if (!*text || *end || errno || n < a->min || n > a->max)
            die(2, "%s is '%s'; it must be a whole number from %ld to %ld.", a->name, text, a->min,
                a->max);
        *(long *)a->to = n;
    } else if (strcmp(a->value, "X") == 0) {
        double x = strtod(text, &end);
        if (!*text || *end || !(x >= 0.0 && x <= 1.0))
            die(2, "%s is '%s'; it must be a number from 0 to 1.", a->name, text);
        *(double *)a->to = x;
    } else {
        if (!*text || strpbrk(text, ";\"\n"))
            die(2, "%s is '%s'; it must be a plain %s.", a->name, text, a->value);
        *(const char **)a->to = text;
    }
}

static void arguments_parse(config *c, int argc, char **argv)
{
    argument list[ARGUMENTS];
    arguments_list(c, list);
    for (int i = 1; i < argc; i++) {
        const argument *a = NULL;
        for (int j = 0; j < ARGUMENTS && !a; j++)
            if (strcmp(argv[i], list[j].name) == 0)
                a = &list[j];
        if (strcmp(argv[i], "--help") == 0) {
            arguments_help(c, list);
            exit(0);
        }
        if (!a)
            die(2, "there is no option '%s'; " PROGRAM " --help lists them.", argv[i]);
        if (!a->value)
            *(int *)a->to = 1;
        else if (i + 1 == argc)
            die(2, "%s needs a value.", a->name);
        else
            argument_set(a, argv[++i]);
    }
    if (c->width % c->heads)
        die(2, "--width %ld is not a multiple of --heads %ld.", c->width, c->heads);
}

/* ---- data -------------------------------------------------------------- */

typedef struct corpus {
    unsigned char *bytes;
    size_t size;
} corpus;

/* Appends a regular file; returns -1 if it cannot be read. */
static int corpus_add(corpus *c, const char *path)
{
    struct stat st;
    FILE *f = fopen(path, "rb");
    if (!f)
        return -1;
    if (fstat(fileno(f), &st) || !S_ISREG(st.st_mode)) {
        fclose(f);
        errno = S_ISDIR(st.st_mode) ? EISDIR : ESPIPE;
        return -1;
    }
    c->bytes = need(realloc(c->bytes, c->size + (size_t)st.st_size + 1));
    c->size += fread(c->bytes + c->size, 1, (size_t)st.st_size, f);
    fclose(f);
    return 0;
}

static int licence_filter(const struct dirent *e)
{
    char path[512];
    struct stat st;
    snprintf(path, sizeof path, LICENCES "/%s", e->d_name);
    return lstat(path, &st) == 0 && S_ISREG(st.st_mode);
}

/* In the order of the bytes of the names, whatever the locale. */
static int licence_order(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static void corpus_load(corpus *c, const config *cfg)
{
    if (cfg->data) {
        if (corpus_add(c, cfg->data))
            die(2, "--data: %s cannot be read: %s.", cfg->data, strerror(errno));
    } else {
        struct dirent **names = NULL;
        int n = scandir(LICENCES, &names, licence_filter, licence_order);
        for (int i = 0; i < n; i++) {
            char path[512];
            snprintf(path, sizeof path, LICENCES "/%s", names[i]->d_name);
            corpus_add(c, path);
            free(names[i]);
        }
        free(names);
    }
    if (!c->bytes || c->size < (size_t)cfg->context + 1)
        die(2, "the text has %zu bytes; --context %ld needs more: give one with --data FILE.",
            c->size, cfg->context);
}

/* A well-mixed function of a seed and a position (splitmix64): random numbers
 * that do not depend on who draws them when. */
static inline uint64_t mix(uint64_t seed, uint64_t position)
{
    uint64_t z = seed + (position + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif /* GPT_INPUT_H */
