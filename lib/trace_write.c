/* trace_write.c - events of the timeline as text: JSON as Chrome and Perfetto read it.
 *
 * The file is an array with an object per line. Of a process that was killed it lacks
 * the closing bracket, which readers do without. Migrations of a route may overlap:
 * each is put on the first of the route's tracks that was free by then, which can be
 * told when it has ended, as they come in that order.
 *
 * Processes of a job may write to one file: each appends whole lines, and has a
 * lock on it that others may have, too. Who finds nobody with that lock starts the
 * file anew; who is the last to leave closes the bracket. The lock is one of the open
 * file: a forked child has a part in it, so that nobody takes the file away from it.
 *
 * Figures are put together from integers: the decimal point is the locale's.
 *
 * May call: core.h, json.h, libc. */
#include "trace_write.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "json.h"
#include "mover.h"

/* Tracks that are no threads, above the numbers that threads can have. */
enum { TRACKS = 1 << 24, FAULTS = TRACKS - 1, MANAGER_TRACKS = MAX_TIERS * MAX_TIERS * TRACE_SLOTS };

/* ---- the file ---------------------------------------------------------- */

static int lock(int fd, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(fd, F_OFD_SETLK, &l);
}

/* With others; whoever has it alone is about to let them in. */
static bool lock_with_others(int fd)
{
    enum { TRIES = 200 };
    for (int i = 0; i < TRIES; i++) {
        if (lock(fd, F_RDLCK) == 0)
            return true;
        usleep(5000);
    }
    return false;
}

/* The file is not ours to write, or to close. */
static bool is_lost(struct trace_writer *w)
{
    struct stat st = {0};
    if (w->fd >= 0 && (fstat(w->fd, &st) || st.st_dev != w->device || st.st_ino != w->inode)) {
        w->fd = -1;
        w->error = EBADF;
    }
    return w->fd < 0;
}

void trace_writer_flush(struct trace_writer *w)
{
    if (is_lost(w))
        w->used = 0;
    for (size_t at = 0; w->fd >= 0 && at < w->used;) {
        ssize_t n = write(w->fd, w->text + at, w->used - at);
        if (n > 0) {
            at += (size_t)n;
        } else if (errno != EINTR) {
            w->error = errno;
            close(w->fd);
            w->fd = -1;
        }
    }
    w->used = 0;
}

static __attribute__((format(printf, 2, 3))) void put(struct trace_writer *w, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(w->text + w->used, TRACE_TEXT - w->used, format, args);
    va_end(args);
    if (n > 0)
        w->used += (size_t)n < TRACE_TEXT - w->used ? (size_t)n : TRACE_TEXT - w->used - 1;
}

static void put_text(struct trace_writer *w, const char *text)
{
    w->used += json_escape(text, w->text + w->used, TRACE_LINE / 2);
}

/* Begins an object, with room for the rest of it. */
static void begin(struct trace_writer *w)
{
    if (TRACE_TEXT - w->used < TRACE_LINE)
        trace_writer_flush(w);
    put(w, ",\n{\"pid\":%ld,", (long)getpid());
}

/* What the process, or one of its tracks, is called. */
static void put_name(struct trace_writer *w, const char *what, unsigned track, const char *format, ...)
{
    char name[200];
    va_list args;
    va_start(args, format);
    vsnprintf(name, sizeof name, format, args);
    va_end(args);
    begin(w);
    put(w, "\"tid\":%u,\"ph\":\"M\",\"name\":\"%s\",\"args\":{\"name\":\"", track, what);
    put_text(w, name);
    put(w, "\"}}");
}

/* The name that the system has for a thread. */
static void thread_name(long thread, char name[32])
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/task/%ld/comm", thread);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, name, 31);
    if (fd >= 0)
        close(fd);
    name[n > 0 ? n : 0] = 0;
    name[strcspn(name, "\n")] = 0;
}

bool trace_writer_open(struct trace_writer *w, struct terrace *m, const char *path)
{
    static atomic_uint managers;
    char name[32];
    struct stat st = {0};
    w->m = m;
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0600);
    if (fd < 0)
        return false;
    w->fd = fcntl(fd, F_DUPFD_CLOEXEC, 100); /* out of the way of programs that count on small numbers */
    if (w->fd < 0)
        w->fd = fd;
    else
        close(fd);
    w->manager = atomic_fetch_add(&managers, 1);
    bool alone = lock(w->fd, F_WRLCK) == 0 || (errno != EAGAIN && errno != EACCES);
    bool good = fstat(w->fd, &st) == 0;
    if (good)
        good = alone ? !S_ISREG(st.st_mode) || ftruncate(w->fd, 0) == 0 : lock_with_others(w->fd);
    w->device = st.st_dev;
    w->inode = st.st_ino;
    thread_name(getpid(), name);
    put_name(w, "process_name", (unsigned)getpid(), "%s", name);
    if (alone)
        w->text[0] = '[';
    if (good)
        trace_writer_flush(w);
    if (good && alone)
        lock(w->fd, F_RDLCK);
    if (good && w->fd >= 0)
        return true;
    if (w->fd >= 0)
        close(w->fd);
    errno = w->error ? w->error : errno;
    w->fd = -1;
    return false;
}

void trace_writer_end(struct trace_writer *w)
{
    trace_writer_flush(w);
    if (w->fd < 0)
        return;
    if (lock(w->fd, F_WRLCK) == 0) {
        put(w, "\n]\n");
        trace_writer_flush(w);
    }
    if (w->fd >= 0) {
        lock(w->fd, F_UNLCK); /* a child's, too: the file is complete without it */
        close(w->fd);
    }
    w->fd = -1;
}

/* ---- events ------------------------------------------------------------ */

/* Microseconds, with three decimals. */
static void put_time(struct trace_writer *w, const char *key, uint64_t ns)
{
    put(w, ",\"%s\":%" PRIu64 ".%03u", key, ns / 1000, (unsigned)(ns % 1000));
}

static void put_span(struct trace_writer *w, unsigned track, const struct trace_event *e)
{
    put(w, "\"tid\":%u,\"ph\":\"X\"", track);
    put_time(w, "ts", e->began);
    put_time(w, "dur", e->ended - e->began);
}

/* The first of the route's tracks that nothing is on any more; else the one that
 * will be soonest. */
static unsigned slot_for(struct trace_track *t, const struct trace_event *e)
{
    unsigned slot = 0;
    for (unsigned i = 0; i < TRACE_SLOTS; i++) {
        if (t->end[i] <= e->began)
            return i;
        slot = t->end[i] < t->end[slot] ? i : slot;
    }
    return slot;
}

static unsigned track_for(struct trace_writer *w, const struct trace_event *e)
{
    unsigned route = (unsigned)e->from * MAX_TIERS + e->to;
    unsigned first = TRACKS + w->manager * MANAGER_TRACKS + route * TRACE_SLOTS;
    struct trace_track **t = &w->track[e->from][e->to];
    if (!*t && !(*t = calloc(1, sizeof **t)))
        return first;
    unsigned slot = slot_for(*t, e);
    (*t)->end[slot] = e->ended;
    for (; (*t)->named <= slot; (*t)->named++)
        put_name(w, "thread_name", first + (*t)->named, "%s -> %s%s", w->m->tier[e->from].name,
                 w->m->tier[e->to].name, (*t)->named ? ", at the same time" : "");
    return first + slot;
}

static void put_move(struct trace_writer *w, const struct trace_event *e)
{
    static const char *const priority[] = {"demand", "prefetch", "write-back"};
    unsigned track = track_for(w, e);
    const char *how = e->priority < PRIORITIES ? priority[e->priority] : "";
    begin(w);
    put_span(w, track, e);
    put(w, ",\"cat\":\"%s\",\"name\":\"", how);
    put_text(w, e->label);
    put(w, "\",\"args\":{\"bytes\":%" PRIu64 ",\"priority\":\"%s\",\"from\":\"%s\",\"to\":\"%s\"", e->bytes, how,
        w->m->tier[e->from].name, w->m->tier[e->to].name);
    put_time(w, "queued_us", e->asked && e->asked < e->began ? e->began - e->asked : 0);
    put(w, "%s}}", e->spoiled ? ",\"in_vain\":true" : "");
}

static void name_thread(struct trace_writer *w, uint32_t thread)
{
    char name[32];
    uint32_t *named = &w->thread[thread % TRACE_THREADS];
    if (*named == thread)
        return;
    *named = thread;
    thread_name(thread, name);
    put_name(w, "thread_name", thread, "%s", *name ? name : "a thread that has ended");
}

static void put_stall(struct trace_writer *w, const struct trace_event *e)
{
    bool fault = e->kind == TRACE_FAULT;
    if (!fault)
        name_thread(w, e->thread);
    else if (!w->faults)
        put_name(w, "thread_name", FAULTS, "threads that touch stable memory");
    w->faults |= fault;
    begin(w);
    put_span(w, fault ? FAULTS : e->thread, e);
    put(w, ",\"cat\":\"stall\",\"name\":\"stalled\",\"args\":{\"for\":\"");
    put_text(w, e->label);
    put(w, "\"}}");
}

static void put_step(struct trace_writer *w, const struct trace_event *e)
{
    begin(w);
    put(w, "\"tid\":%ld,\"ph\":\"i\",\"s\":\"p\",\"name\":\"step %" PRIu64 "\"", (long)getpid(), e->bytes);
    put_time(w, "ts", e->ended);
    put(w, "}");
}

void trace_writer_event(struct trace_writer *w, const struct trace_event *e)
{
    static void (*const put_event[])(struct trace_writer *, const struct trace_event *) = {
        [TRACE_MOVE] = put_move, [TRACE_STALL] = put_stall, [TRACE_FAULT] = put_stall, [TRACE_STEP] = put_step};
    if (w->fd < 0)
        return;
    put_event[e->kind](w, e);
    w->written++;
}

void trace_writer_lost(struct trace_writer *w, uint64_t events, uint64_t bytes)
{
    begin(w);
    put(w, "\"tid\":%ld,\"ph\":\"i\",\"s\":\"p\",\"cat\":\"lost\",\"name\":\"%" PRIu64 " events lost: too many at once\"",
        (long)getpid(), events);
    put_time(w, "ts", clock_ns());
    put(w, ",\"args\":{\"lost\":%" PRIu64 ",\"bytes\":%" PRIu64 "}}", events, bytes);
}

void trace_writer_tiers(struct trace_writer *w)
{
    struct terrace *m = w->m;
    uint64_t in_use[MAX_TIERS] = {0};
    manager_lock(m);
    for (unsigned i = 0; i < m->tiers; i++)
        in_use[i] = m->tier[i].arena.committed;
    manager_unlock(m);
    for (unsigned i = 0; i < m->tiers; i++) {
        if (in_use[i] == w->in_use[i])
            continue;
        w->in_use[i] = in_use[i];
        begin(w);
        put(w, "\"tid\":0,\"ph\":\"C\",\"name\":\"%s in use\",\"id\":\"%u\"", m->tier[i].name, w->manager);
        put_time(w, "ts", clock_ns());
        put(w, ",\"args\":{\"bytes\":%" PRIu64 "}}", in_use[i]);
    }
}
