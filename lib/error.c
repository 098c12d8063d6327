/* error.c - the failure sentence of each thread, and the texts of all codes.
 *
 * The sentence lives in thread-local storage of fixed size: recording a
 * failure cannot fail itself, which matters most when memory has run out.
 * It stays until the next failure; successful calls do not clear it. */
#include "error.h"

#include <stdio.h>
#include <string.h>

static _Thread_local char sentence[ERROR_TEXT];

/* Formats into a buffer of its own first: the arguments may point into the
 * sentence that is being replaced. A sentence too long ends in "...". */
int error_vset(int err, const char *format, va_list args)
{
    char text[ERROR_TEXT];
    int length = vsnprintf(text, sizeof text, format, args);
    if (length < 0)
        snprintf(text, sizeof text, "%s", terrace_strerror(err));
    else if ((size_t)length >= sizeof text)
        memcpy(text + sizeof text - 4, "...", 4);
    memcpy(sentence, text, sizeof sentence);
    return err;
}

void error_record(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    error_vset(0, format, args);
    va_end(args);
}

const char *bytes_text(unsigned long long bytes, char buf[BYTES_TEXT])
{
    static const char unit[][4] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double value = (double)bytes;
    unsigned u = 0;
    /* 1023.95 and more would print as "1024.0". */
    while (value >= 1023.95 && u + 1 < sizeof unit / sizeof *unit) {
        value /= 1024;
        u++;
    }
    snprintf(buf, BYTES_TEXT, u ? "%.1f %s" : "%.0f %s", value, unit[u]);
    return buf;
}

const char *terrace_strerror(int err)
{
    switch (err) {
    case 0:
        return "success";
#define ERROR_CASE(name, value, text) \
    case -TERRACE_##name:             \
        return text;
        TERRACE_ERRORS(ERROR_CASE)
#undef ERROR_CASE
    default:
        return "an unknown error";
    }
}

const char *terrace_last_error(void)
{
    return sentence;
}

const char *terrace_version(void)
{
    return TERRACE_VERSION;
}
