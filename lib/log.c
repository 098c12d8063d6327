/* log.c - lines for people, on stderr or in a file.
 *
 * A line is put together on the stack and handed over with one write(), so no
 * lock is needed and lines of several threads and processes do not mix. */
#include "log.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "error.h"

enum { LOG_LINE = 1024 };

int log_open(struct log *log, int level, const char *path)
{
    int fd = STDERR_FILENO;
    if (path) {
        fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
        if (fd < 0)
            return error_set(-TERRACE_ECONFIG,
                             "TERRACE_LOG_FILE=%s cannot be opened for appending: %s; accepted "
                             "is the path of a file that may be written or created",
                             path, strerror(errno));
    }
    log->level = level;
    log->fd = fd;
    return 0;
}

void log_close(struct log *log)
{
    if (log->fd != STDERR_FILENO)
        close(log->fd);
    log->fd = STDERR_FILENO;
}

static const char *level_name(int level)
{
    switch (level) {
    case TERRACE_LOG_ERROR:
        return "error";
    case TERRACE_LOG_WARN:
        return "warning";
    case TERRACE_LOG_INFO:
        return "info";
    default:
        return "debug";
    }
}

/* One line stays one line: what a file name or label might contain must not
 * start another. */
static void replace_controls(char *text, size_t length)
{
    for (size_t i = 0; i < length; i++)
        if ((unsigned char)text[i] < ' ' || text[i] == 0x7f)
            text[i] = ' ';
}

/* Leaves errno as it was: callers log on their way out of a failure. A line
 * that cannot be written is lost; there is nowhere left to say so. */
void log_vwrite(const struct log *log, int level, const char *format, va_list args)
{
    if (level > log->level || level <= TERRACE_LOG_OFF)
        return;
    int saved = errno;
    char line[LOG_LINE];
    size_t length = (size_t)snprintf(line, sizeof line, "terrace: %s: ", level_name(level));
    int wanted = vsnprintf(line + length, sizeof line - length, format, args);
    if (wanted > 0)
        length += (size_t)wanted;
    if (length >= sizeof line) {
        length = sizeof line - 1;
        memcpy(line + length - 3, "...", 3);
    }
    replace_controls(line, length);
    line[length++] = '\n'; /* over the NUL */
    while (write(log->fd, line, length) < 0 && errno == EINTR)
        ;
    errno = saved;
}

void log_write(const struct log *log, int level, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    log_vwrite(log, level, format, args);
    va_end(args);
}
