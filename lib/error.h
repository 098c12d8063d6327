/* error.h - the calling thread's failure sentence.
 * May call: libc only. */
#ifndef TERRACE_LIB_ERROR_H
#define TERRACE_LIB_ERROR_H

#include <stdarg.h>

#include "terrace.h"

enum { ERROR_TEXT = 512 }; /* bytes of a sentence, its NUL included */

/* Records the sentence terrace_last_error() will give in this thread; its value
 * is err (a negative TERRACE_E... code). Only the function that first decides
 * on an error uses this; those above it just pass the code on. A macro, so that
 * static analysis sees which value comes back. */
#define error_set(err, ...) (error_record(__VA_ARGS__), error_value(err))
void error_record(const char *format, ...) __attribute__((format(printf, 1, 2)));
static inline int error_value(int err)
{
    return err;
}
int error_vset(int err, const char *format, va_list args) __attribute__((format(printf, 2, 0)));

/* Writes a byte count for people, "8.0 MiB", into buf; returns buf. */
enum { BYTES_TEXT = 24 };
const char *bytes_text(unsigned long long bytes, char buf[BYTES_TEXT]);

#endif
