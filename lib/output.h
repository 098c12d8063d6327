/* output.h - files that are written for people and tools.
 * May call: libc. */
#ifndef TERRACE_LIB_OUTPUT_H
#define TERRACE_LIB_OUTPUT_H

#include <stdbool.h>
#include <stdio.h>

/* A setting's path as it is to be opened: "%p" is the process's number, and a relative
 * one begins where the process is now. To be freed; NULL: no memory. */
char *output_path(const char *given);

/* A file that takes the place of another when it is whole. */
struct output {
    FILE *file;
    char *path, *part; /* what it is to be called, and is until then */
};

/* False: it cannot be made (errno). */
bool output_begin(struct output *o, const char *path);
bool output_end(struct output *o);

#endif
