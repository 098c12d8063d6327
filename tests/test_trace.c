/* test_trace.c - the timeline: what it says is what the statistics say, whatever
 * becomes of its process; and it is in nobody's way. */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "core.h"
#include "manager.h"
#include "simdisk.h"
#include "trace.h"

enum { SIZE = MIB, LIMIT = 4 * MIB, TENSORS = 12 };

static char folder[64];

static const char *in_folder(const char *name)
{
    static char path[128];
    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void begin(void)
{
    snprintf(folder, sizeof folder, "/var/tmp/terrace-test.XXXXXX");
    cr_assert_not_null(mkdtemp(folder));
}

static void end(void)
{
    unlink(in_folder("trace"));
    unlink(in_folder("log"));
    rmdir(folder);
}

TestSuite(trace, .init = begin, .fini = end, .timeout = 120);

static terrace *open_traced_on(const char *tiers)
{
    char more[256];
    snprintf(more, sizeof more, "trace=%s/trace;log_file=%s/log;nvme_path=%s;prefetch=off;policy=lru", folder, folder,
             folder);
    return open_with(tiers, LIMIT, more);
}

static terrace *open_traced(void)
{
    return open_traced_on("numa:0,simdisk:0");
}

static char *text_of(const char *name)
{
    struct stat st;
    int fd = open(in_folder(name), O_RDONLY);
    cr_assert(fd >= 0 && fstat(fd, &st) == 0, "%s", name);
    char *text = calloc(1, (size_t)st.st_size + 1);
    cr_assert_eq(read(fd, text, (size_t)st.st_size), st.st_size);
    close(fd);
    return text;
}

/* ---- reading it --------------------------------------------------------------- */

struct seen {
    unsigned moves, stalls, steps, processes, lost, demands, in_vain;
    uint64_t bytes, stall_ns, lost_bytes, in, out;
    uint64_t in_use; /* of the host, last */
};

static uint64_t number_after(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    cr_assert(at, "%s has no %s", line, key);
    return strtoull(at + strlen(key), NULL, 10);
}

/* Microseconds with three decimals. */
static uint64_t ns_after(const char *line, const char *key)
{
    const char *at = strstr(line, key);
    char *dot;
    cr_assert(at, "%s has no %s", line, key);
    uint64_t us = strtoull(at + strlen(key), &dot, 10);
    cr_assert(*dot == '.' && dot[4] < '0', "%s", line);
    return us * 1000 + strtoull(dot + 1, NULL, 10);
}

static void see_span(struct seen *s, const char *line)
{
    if (strstr(line, "\"cat\":\"stall\"")) {
        s->stalls++;
        s->stall_ns += ns_after(line, "\"dur\":");
        return;
    }
    uint64_t bytes = number_after(line, "\"bytes\":");
    s->moves++;
    s->bytes += bytes;
    s->in += strstr(line, "\"to\":\"numa:0\"") ? bytes : 0;
    s->out += strstr(line, "\"from\":\"numa:0\"") ? bytes : 0;
    s->demands += strstr(line, "\"priority\":\"demand\"") != NULL;
    s->in_vain += strstr(line, "\"in_vain\":true") != NULL;
}

static void see(struct seen *s, const char *line)
{
    if (strstr(line, "\"ph\":\"X\""))
        see_span(s, line);
    else if (strstr(line, "\"cat\":\"lost\"")) {
        s->lost += (unsigned)number_after(line, "\"lost\":");
        s->lost_bytes += number_after(line, "\"bytes\":");
    } else if (strstr(line, "\"ph\":\"C\"") && strstr(line, "numa:0"))
        s->in_use = number_after(line, "\"bytes\":");
    s->steps += strstr(line, "\"name\":\"step ") != NULL;
    s->processes += strstr(line, "\"process_name\"") != NULL;
}

/* Reads the file line by line; `whole`: it has its closing bracket. */
static struct seen read_trace(bool whole)
{
    struct seen s = {0};
    char *text = text_of("trace"), *rest = text, *line;
    size_t length = strlen(text);
    cr_assert_eq(length >= 3 && strcmp(text + length - 3, "\n]\n") == 0, whole, "the end is %s", text + length - 20);
    line = strsep(&rest, "\n");
    cr_assert_str_eq(line, "[");
    while ((line = strsep(&rest, "\n")) != NULL && *line && *line != ']') {
        bool last = !rest || *rest == ']' || !*rest;
        cr_assert(*line == '{' && strchr("},", line[strlen(line) - 1]), "%s", line);
        cr_assert_eq(line[strlen(line) - 1] == ',', !last, "%s", line);
        see(&s, line);
    }
    free(text);
    return s;
}

/* By a parser that is not ours. */
static bool is_json(const char *name, const char *more)
{
    char command[400];
    snprintf(command, sizeof command, "python3 -c 'import json, sys; t = open(sys.argv[1]).read(); "
             "assert type(json.loads(t + sys.argv[2])) is list' %s '%s'", in_folder(name), more);
    return system(command) == 0;
}

/* ---- working ------------------------------------------------------------------ */

/* More than fits, twice, with a step after each round. */
static void work(terrace *m, terrace_tensor *t[TENSORS])
{
    for (int i = 0; i < TENSORS; i++) {
        char label[120];
        snprintf(label, sizeof label, "layer %d, \"quoted\"\\\n\x01\xff\xc3\xa9 %s", i, i ? "" :
                 "and so long that it does not fit into what is noted of an event, and is cut");
        t[i] = tensor_of(m, SIZE, label);
        write_pattern(t[i], 0, SIZE, (uint64_t)i);
    }
    assert_ok(terrace_step(m));
    for (int i = 0; i < TENSORS; i++)
        expect_pattern(t[i], 0, SIZE, (uint64_t)i);
    assert_ok(terrace_step(m));
    for (int i = 0; i < TENSORS; i++)
        assert_ok(terrace_wait(t[i]));
}

Test(trace, says_what_the_statistics_say)
{
    terrace_tensor *t[TENSORS];
    terrace *m = open_traced();
    work(m, t);
    terrace_statistics s = stats_of(m);
    terrace_tier_statistics host = tier_stats_of(m, 0);
    terrace_close(m);
    struct seen seen = read_trace(true);
    cr_assert(seen.bytes == s.fill_bytes + s.writeback_bytes && seen.bytes > 12 * SIZE, "%llu",
              (unsigned long long)seen.bytes);
    cr_assert(seen.in == host.in_bytes && seen.out == host.out_bytes);
    cr_assert(seen.stalls == s.stalls && s.stalls > 0 && seen.stall_ns == s.stall_ns);
    cr_assert(seen.steps == 2 && seen.processes == 1 && seen.lost == 0);
    cr_assert_geq(seen.demands, TENSORS);
    cr_assert_eq(seen.in_use, host.used);
    cr_assert(is_json("trace", ""));
    char *log = text_of("log");
    cr_assert_str_empty(log);
    free(log);
}

/* A write-back that fails has moved bytes, and is said to have been in vain. */
Test(trace, a_failed_migration_is_shown)
{
    terrace *m = open_traced();
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    write_pattern(t, 0, SIZE, 1);
    simdisk.fail_write = 3;
    assert_ok(terrace_demote(t, disk_of(m)));
    assert_fails(terrace_wait(t), TERRACE_EIO);
    terrace_tier_statistics host = tier_stats_of(m, 0);
    terrace_close(m);
    struct seen seen = read_trace(true);
    cr_assert(seen.in_vain == 1 && seen.moves == 1 && seen.bytes == host.out_bytes);
}

/* A fill that fails has moved nothing. */
Test(trace, a_failed_fill_is_shown)
{
    terrace *m = open_traced();
    terrace_tensor *t = tensor_of(m, SIZE, "t");
    void *p;
    write_pattern(t, 0, SIZE, 1);
    push_down(t, m);
    simdisk.fail_read = 2;
    assert_fails(terrace_acquire(t, 0, TERRACE_READ, NULL, &p, NULL), TERRACE_EIO);
    expect_pattern(t, 0, SIZE, 1);
    terrace_tier_statistics host = tier_stats_of(m, 0);
    terrace_close(m);
    struct seen seen = read_trace(true);
    cr_assert(seen.in_vain == 1 && seen.in == host.in_bytes && seen.in == SIZE);
}

Test(trace, events_that_come_too_fast_are_counted)
{
    enum { EVENTS = 100000 };
    terrace *m = open_traced();
    struct trace_event e = {.kind = TRACE_MOVE, .bytes = 10, .to = 1};
    manager_lock(m);
    for (unsigned i = 0; i < EVENTS; i++) {
        e.began = e.ended = clock_ns();
        trace_note_locked(m->trace, &e, "x");
    }
    manager_unlock(m);
    uint64_t lost = trace_lost(m->trace);
    terrace_close(m);
    struct seen seen = read_trace(true);
    cr_assert(lost > 0 && seen.lost == lost && seen.moves == EVENTS - lost);
    cr_assert(seen.lost_bytes == 10 * lost && seen.bytes == 10 * (EVENTS - lost));
    char *log = text_of("log");
    cr_assert(strstr(log, "came faster than they could be written") && strchr(log, '\n') == strrchr(log, '\n'), "%s", log);
    free(log);
}

/* Tracks of a route never have two migrations at the same time. */
Test(trace, migrations_that_overlap_are_on_tracks_of_their_own)
{
    terrace *m = open_traced();
    manager_lock(m);
    for (uint64_t i = 1; i <= 40; i++) {
        struct trace_event e = {.kind = TRACE_MOVE, .began = i * 1000, .ended = i * 1000 + 3500, .to = 1};
        trace_note_locked(m->trace, &e, "x");
    }
    manager_unlock(m);
    terrace_close(m);
    char *text = text_of("trace"), *rest = text, *line;
    uint64_t end_of[64] = {0}, first = 1 << 24, most = 0;
    while ((line = strsep(&rest, "\n")) != NULL) {
        if (!strstr(line, "\"ph\":\"X\""))
            continue;
        uint64_t track = number_after(line, "\"tid\":") - first, slot = track % 64;
        cr_assert_eq(track / 64 % 256, 1);
        cr_assert_leq(end_of[slot], ns_after(line, "\"ts\":"));
        end_of[slot] = ns_after(line, "\"ts\":") + ns_after(line, "\"dur\":");
        most = slot > most ? slot : most;
    }
    cr_assert_eq(most, 3);
    free(text);
}

/* ---- files ---------------------------------------------------------------------- */

Test(trace, a_file_that_cannot_be_written_stops_nobody)
{
    static const char *const path[] = {"/proc/nonsense/x", "/dev/full", "/var/tmp"};
    terrace_tensor *t[TENSORS];
    for (int i = 0; i < 3; i++) {
        char more[256], sentence[64];
        snprintf(more, sizeof more, "trace=%s;log_file=%s", path[i], in_folder("log"));
        terrace *m = open_sim(LIMIT, more);
        work(m, t);
        terrace_close(m);
        char *log = text_of("log");
        snprintf(sentence, sizeof sentence, "TERRACE_TRACE=%s: the timeline cannot be written", path[i]);
        cr_assert(strstr(log, sentence) && strchr(log, '\n') == strrchr(log, '\n'), "%s", log);
        free(log);
        unlink(in_folder("log"));
    }
}

Test(trace, managers_share_a_file_and_the_last_one_ends_it)
{
    terrace *a = open_traced_on("numa:0,nvme:0"), *b = open_traced_on("numa:0,nvme:0");
    terrace_tensor *t[TENSORS];
    work(a, t);
    work(b, t);
    uint64_t bytes = stats_of(a).fill_bytes + stats_of(a).writeback_bytes + stats_of(b).fill_bytes +
                     stats_of(b).writeback_bytes;
    terrace_close(a);
    read_trace(false);
    terrace_close(b);
    struct seen seen = read_trace(true);
    cr_assert(seen.bytes == bytes && seen.steps == 4 && seen.processes == 2);
    cr_assert(is_json("trace", ""));
    terrace_close(open_traced()); /* nobody has it any more: it begins anew */
    seen = read_trace(true);
    cr_assert(seen.moves == 0 && seen.processes == 1);
}

/* A program that closes all files, and opens one that gets the same number. */
Test(trace, a_file_of_the_programs_is_never_written_to)
{
    terrace_tensor *t[TENSORS];
    char link[64], to[200];
    struct stat st;
    int taken = 0;
    terrace *m = open_traced();
    int other = open(in_folder("other"), O_RDWR | O_CREAT, 0600);
    for (int fd = 3; fd < 200; fd++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t n = readlink(link, to, sizeof to - 1);
        to[n > 0 ? n : 0] = 0;
        if (strstr(to, "/trace") || strstr(to, "memfd:terrace")) {
            cr_assert_eq(dup2(other, fd), fd);
            taken++;
        }
    }
    cr_assert_eq(taken, 2);
    work(m, t);
    terrace_close(m);
    cr_assert(fstat(other, &st) == 0 && st.st_size == 0);
    unsigned left = 0;
    for (int fd = 3; fd < 200; fd++) {
        struct stat is;
        left += fstat(fd, &is) == 0 && is.st_ino == st.st_ino && is.st_dev == st.st_dev;
    }
    cr_assert_eq(left, 3, "%u of the program's files are left", left);
    char *log = text_of("log");
    cr_assert(strstr(log, "the timeline cannot be written: Bad file descriptor"), "%s", log);
    free(log);
    cr_assert_eq(unlink(in_folder("other")), 0);
}

Test(trace, the_path_may_have_the_process_number)
{
    char more[200], name[64];
    snprintf(more, sizeof more, "trace=%s/trace-%%p", folder);
    terrace_close(open_sim(LIMIT, more));
    snprintf(name, sizeof name, "trace-%d", (int)getpid());
    cr_assert(is_json(name, ""));
    cr_assert_eq(unlink(in_folder(name)), 0);
}

/* ---- processes ------------------------------------------------------------------- */

Test(trace, a_child_has_its_own_part_of_the_file)
{
#ifdef __SANITIZE_THREAD__
    cr_skip_test("the thread sanitizer allows no threads in a child");
#endif
    terrace_tensor *t[TENSORS];
    int status, said[2];
    terrace *m = open_traced_on("numa:0,nvme:0");
    work(m, t);
    cr_assert_eq(pipe(said), 0);
    pid_t child = fork();
    if (child == 0) {
        terrace_close(m); /* the parent's: nothing happens */
        terrace *own = open_traced_on("numa:0,nvme:0");
        work(own, t);
        uint64_t moved = stats_of(own).fill_bytes + stats_of(own).writeback_bytes;
        terrace_close(own);
        _exit(write(said[1], &moved, sizeof moved) == sizeof moved ? 0 : 1);
    }
    cr_assert(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    uint64_t bytes = stats_of(m).fill_bytes + stats_of(m).writeback_bytes, of_child;
    cr_assert_eq(read(said[0], &of_child, sizeof of_child), sizeof of_child);
    read_trace(false);
    terrace_close(m);
    struct seen seen = read_trace(true);
    cr_assert(seen.processes == 2 && seen.steps == 4 && seen.bytes == bytes + of_child, "%llu %llu",
              (unsigned long long)seen.bytes, (unsigned long long)(bytes + of_child));
    cr_assert(is_json("trace", ""));
}

/* What was written before is whole lines, to which readers add the bracket. */
Test(trace, a_killed_process_leaves_what_can_be_read)
{
    terrace_tensor *t[TENSORS];
    int status, ready[2];
    char c;
    cr_assert_eq(pipe(ready), 0);
    pid_t child = fork();
    if (child == 0) {
        terrace *m = open_traced();
        work(m, t);
        usleep(200000); /* for the thread that writes it down */
        if (write(ready[1], "x", 1) == 1)
            pause();
        _exit(1);
    }
    cr_assert_eq(read(ready[0], &c, 1), 1);
    kill(child, SIGKILL);
    cr_assert(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    struct seen seen = read_trace(false);
    cr_assert(seen.steps == 2 && seen.moves > TENSORS);
    cr_assert(is_json("trace", "]"));
}

/* Threads of this process. */
static unsigned threads(void)
{
    char line[256];
    unsigned n = 0;
    FILE *f = fopen("/proc/self/status", "r");
    while (f && fgets(line, sizeof line, f))
        if (strncmp(line, "Threads:", 8) == 0)
            n = (unsigned)strtoul(line + 8, NULL, 10);
    fclose(f);
    return n;
}

Test(trace, off_there_is_no_thread_for_it)
{
    terrace *m = open_sim(LIMIT, "trace=\"\"");
    unsigned without = threads();
    cr_assert_null(m->trace);
    terrace_close(m);
    m = open_traced();
    cr_assert_eq(threads(), without + 1);
    terrace_close(m);
}
