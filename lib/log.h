/* log.h - messages to stderr or TERRACE_LOG_FILE, where the user asked for them.
 * May call: error.h, libc. */
#ifndef TERRACE_LIB_LOG_H
#define TERRACE_LIB_LOG_H

#include <stdarg.h>

#include "terrace_backend.h" /* TERRACE_LOG_... levels */

/* One per manager, owned by it. Thread-safe after log_open. A line is written
 * with one write(2), so that lines of several threads do not mix:
 * "terrace: warning: text\n". */
struct log {
    int level; /* messages above it are dropped */
    int fd;    /* stderr, or the file's */
};

/* path NULL: stderr. A path that cannot be opened (append, created 0600,
 * O_CLOEXEC) is ECONFIG, with the sentence set. */
int log_open(struct log *log, int level, const char *path);
void log_close(struct log *log);
void log_write(const struct log *log, int level, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void log_vwrite(const struct log *log, int level, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

#endif
