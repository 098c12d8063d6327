/* Lines, levels, files; what must never happen in between. */
#include <criterion/criterion.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "error.h"
#include "log.h"

static char dir[] = "/tmp/terrace-log-XXXXXX";
static char path[64];

static void make_folder(void)
{
    cr_assert_not_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/log", dir);
}

static void remove_folder(void)
{
    unlink(path);
    rmdir(dir);
}

TestSuite(log, .init = make_folder, .fini = remove_folder);

/* The log's contents; the caller frees them. */
static char *contents(void)
{
    FILE *file = fopen(path, "r");
    cr_assert_not_null(file);
    char *text = calloc(1, 1 << 20);
    cr_assert_lt(fread(text, 1, (1 << 20) - 1, file), (1 << 20) - 1);
    fclose(file);
    return text;
}

static void expect(const char *wanted)
{
    char *text = contents();
    cr_assert_str_eq(text, wanted);
    free(text);
}

Test(log, a_line_names_its_level)
{
    struct log log;
    cr_assert_eq(log_open(&log, TERRACE_LOG_DEBUG, path), 0);
    log_write(&log, TERRACE_LOG_ERROR, "a %d", 1);
    log_write(&log, TERRACE_LOG_WARN, "b");
    log_write(&log, TERRACE_LOG_INFO, "c");
    log_write(&log, TERRACE_LOG_DEBUG, "d");
    log_close(&log);
    expect("terrace: error: a 1\nterrace: warning: b\nterrace: info: c\nterrace: debug: d\n");
}

Test(log, messages_above_the_level_are_dropped)
{
    struct log log;
    cr_assert_eq(log_open(&log, TERRACE_LOG_WARN, path), 0);
    log_write(&log, TERRACE_LOG_INFO, "no");
    log_write(&log, TERRACE_LOG_OFF, "never");
    log_write(&log, TERRACE_LOG_WARN, "yes");
    log_close(&log);
    expect("terrace: warning: yes\n");
}

Test(log, off_is_silent)
{
    struct log log;
    cr_assert_eq(log_open(&log, TERRACE_LOG_OFF, path), 0);
    log_write(&log, TERRACE_LOG_ERROR, "no");
    log_write(&log, TERRACE_LOG_OFF, "no");
    log_close(&log);
    expect("");
}

Test(log, a_file_is_private_appended_to_and_not_inherited)
{
    struct log log;
    struct stat st;
    umask(0);
    for (int i = 0; i < 2; i++) {
        cr_assert_eq(log_open(&log, TERRACE_LOG_INFO, path), 0);
        cr_assert(fcntl(log.fd, F_GETFD) & FD_CLOEXEC);
        log_write(&log, TERRACE_LOG_INFO, "%d", i);
        log_close(&log);
    }
    cr_assert_eq(stat(path, &st), 0);
    cr_assert_eq(st.st_mode & 07777, 0600);
    expect("terrace: info: 0\nterrace: info: 1\n");
}

Test(log, a_path_that_cannot_be_opened_is_named)
{
    struct log log;
    cr_assert_eq(log_open(&log, TERRACE_LOG_INFO, "/nonexistent/x.log"), -TERRACE_ECONFIG);
    cr_assert(strstr(terrace_last_error(), "TERRACE_LOG_FILE=/nonexistent/x.log"));
    cr_assert(strstr(terrace_last_error(), strerror(ENOENT)));
    cr_assert(strstr(terrace_last_error(), "accepted is"));
}

Test(log, without_a_path_stderr_is_used_and_stays_open)
{
    struct log log;
    int file = open(path, O_RDWR | O_CREAT, 0600), saved = dup(STDERR_FILENO);
    dup2(file, STDERR_FILENO);
    cr_assert_eq(log_open(&log, TERRACE_LOG_INFO, NULL), 0);
    log_write(&log, TERRACE_LOG_INFO, "hello");
    log_close(&log);
    int open_still = fcntl(STDERR_FILENO, F_GETFD);
    dup2(saved, STDERR_FILENO);
    cr_assert_neq(open_still, -1);
    expect("terrace: info: hello\n");
}

Test(log, what_is_quoted_cannot_start_another_line)
{
    struct log log;
    cr_assert_eq(log_open(&log, TERRACE_LOG_INFO, path), 0);
    log_write(&log, TERRACE_LOG_INFO, "file %s", "a\nterrace: error: b\x1b[31m\t\x7f");
    log_close(&log);
    expect("terrace: info: file a terrace: error: b [31m  \n");
}

Test(log, a_long_line_is_cut_and_stays_one_line)
{
    struct log log;
    char text[5000];
    memset(text, 'x', sizeof text);
    text[sizeof text - 1] = 0;
    cr_assert_eq(log_open(&log, TERRACE_LOG_INFO, path), 0);
    log_write(&log, TERRACE_LOG_INFO, "%s", text);
    log_write(&log, TERRACE_LOG_INFO, "next");
    log_close(&log);
    char *got = contents(), *end = strchr(got, '\n');
    cr_assert_str_eq(end, "\nterrace: info: next\n");
    cr_assert_eq(strncmp(end - 4, "x...", 4), 0);
    free(got);
}

Test(log, errno_is_left_alone)
{
    struct log log = {.level = TERRACE_LOG_INFO, .fd = -1};
    errno = ENOTTY;
    log_write(&log, TERRACE_LOG_INFO, "to nowhere");
    cr_assert_eq(errno, ENOTTY);
}

enum { WRITERS = 4, LINES = 500 };

static void *write_lines(void *log)
{
    for (int i = 0; i < LINES; i++)
        log_write(log, TERRACE_LOG_INFO, "%s", "abcdefghijklmnopqrstuvwxyz");
    return NULL;
}

Test(log, lines_of_several_threads_do_not_mix)
{
    struct log log;
    pthread_t thread[WRITERS];
    cr_assert_eq(log_open(&log, TERRACE_LOG_INFO, path), 0);
    for (int i = 0; i < WRITERS; i++)
        cr_assert_eq(pthread_create(&thread[i], NULL, write_lines, &log), 0);
    for (int i = 0; i < WRITERS; i++)
        pthread_join(thread[i], NULL);
    log_close(&log);
    static const char line[] = "terrace: info: abcdefghijklmnopqrstuvwxyz\n";
    char *text = contents(), *at = text;
    for (int i = 0; i < WRITERS * LINES; i++, at += sizeof line - 1)
        cr_assert_eq(strncmp(at, line, sizeof line - 1), 0, "line %d", i);
    cr_assert_str_eq(at, "");
    free(text);
}
