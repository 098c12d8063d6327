/* report.c - what happened: statistics, and the report when a manager closes or the
 * process ends.
 *
 * May call: core.h, device_stable.h, lease.h, mover.h, output.h, small.h, staging.h, trace.h. */
#include "report.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "device_stable.h"
#include "lease.h"
#include "mover.h"
#include "output.h"
#include "small.h"
#include "staging.h"
#include "trace.h"

/* Copies a sized struct to a caller who may know a shorter one. */
static int hand_over(void *out, size_t out_size, const void *from, size_t size, const char *what)
{
    if (!out || out_size < 2 * sizeof(size_t))
        return error_set(-TERRACE_EINVAL, "%s: out is NULL or its size is not set", what);
    size_t n = out_size < size ? out_size : size;
    memcpy((char *)out + sizeof(size_t), (const char *)from + sizeof(size_t), n - sizeof(size_t));
    return 0;
}

int terrace_stats(terrace *m, terrace_statistics *out)
{
    int r = manager_check(m);
    if (r)
        return r;
    manager_lock(m);
    leases_drain_locked(m);
    terrace_statistics now = m->stats;
    manager_unlock(m);
    now.absent = m->kinds_absent;
    return hand_over(out, out ? out->size : 0, &now, sizeof now, "terrace_stats");
}

/* Figures and texts of a tier. Without the lock. */
static void tier_snapshot(struct tier *tier, terrace_tier_statistics *out)
{
    struct terrace *m = tier->manager;
    struct arena_stats arena;
    uint64_t slices = 0, groups = 0;
    if (tier_is_memory(tier))
        smalls_stats(m, &slices, &groups);
    manager_lock(m);
    arena_describe(&tier->arena, &arena);
    *out = (terrace_tier_statistics){
        .name = tier->name,
        .kind = tier->backend->name,
        .tier_class = tier_class_name(tier),
        .location = tier->info.location,
        .engine = tier->info.engine,
        .engine_reason = tier->info.engine_reason,
        .limit = tier->arena.limit,
        .limit_reason = tier->limit_reason,
        .used = tier->arena.committed,
        .peak = tier->arena.peak,
        .tensors = tier->tensors,
        .in_bytes = tier->in_bytes,
        .out_bytes = tier->out_bytes,
        .io_chunk = tier->info.io_chunk,
        .io_depth = tier->lane ? tier->lane->depth.settled : tier->info.io_depth,
        .small_engine = tier_is_memory(tier) ? m->small_engine : NULL,
        .distances = tier->info.distances,
        .node = tier->info.node,
        .stable_engine = tier->backend->caps & TERRACE_CAP_CPU ? m->stable_engine : device_stable_engine_locked(tier),
        .stable_bytes = tier->stable,
        .cached = arena.cached,
        .cached_pieces = arena.pieces,
        .largest_cached = arena.largest,
        .extents = arena.extents,
        .small_bytes = slices,
        .group_bytes = groups,
        .staging = tier->staging,
        .staging_state = staging_state_locked(tier),
        .vendor = tier_vendor(tier),
        .byte_seconds = arena_byte_seconds(&tier->arena),
    };
    out->dirty = policy_dirty_bytes(&tier->policy) + tier->open_bytes[1] + tier->draining;
    out->pinned = lease_pinned_bytes_locked(tier);
    struct copy *c;
    TAILQ_FOREACH(c, &tier->pinned, held) {
        if (!c->extent)
            continue;
        out->pinned += c->extent->bytes;
        out->dirty += copy_dirty_locked(c) && !c->tensor->transfer ? c->extent->bytes : 0;
    }
    manager_unlock(m);
}

int terrace_tier_stats(terrace *m, terrace_tier tier, terrace_tier_statistics *out)
{
    int r = manager_check(m);
    if (r)
        return r;
    if (tier < 0 || (unsigned)tier >= m->tiers)
        return error_set(-TERRACE_EINVAL, "%d is not the number of a tier; there are %u", tier,
                         m->tiers);
    terrace_tier_statistics now;
    tier_snapshot(&m->tier[tier], &now);
    return hand_over(out, out ? out->size : 0, &now, sizeof now, "terrace_tier_stats");
}

/* ---- the report -------------------------------------------------------- */

static void report_take(struct terrace *m, struct report *r)
{
    r->m = m;
    r->tiers = m->tiers;
    manager_lock(m);
    leases_drain_locked(m);
    r->stats = m->stats;
    memcpy(r->route, m->route, sizeof r->route);
    manager_unlock(m);
    for (unsigned i = 0; i < m->tiers; i++)
        tier_snapshot(&m->tier[i], &r->tier[i]);
    r->ns = clock_ns() - m->opened_ns;
    r->trace_written = m->trace ? trace_written(m->trace) : 0;
    r->trace_lost = m->trace ? trace_lost(m->trace) : 0;
}

/* To the end of the file, or stderr. */
static bool append(const char *where, const struct report *r)
{
    int fd = strcmp(where, "1") == 0 ? dup(STDERR_FILENO)
                                     : open(where, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    FILE *f = fd < 0 ? NULL : fdopen(fd, "a");
    if (!f) {
        int e = errno;
        if (fd >= 0)
            close(fd);
        errno = e;
        return false;
    }
    report_as_text(r, f);
    return fclose(f) == 0;
}

/* In place of the file: tools read one report, and never half of it. */
static bool replace(const char *where, const struct report *r, void (*write_as)(const struct report *, FILE *))
{
    struct output o;
    if (!output_begin(&o, where))
        return false;
    write_as(r, o.file);
    return output_end(&o);
}

static bool ends_in(const char *text, const char *end)
{
    size_t n = strlen(text), k = strlen(end);
    return n > k && strcmp(text + n - k, end) == 0;
}

void report_write(struct terrace *m)
{
    if (!m->report)
        return;
    struct report *r = malloc(sizeof *r);
    errno = ENOMEM;
    bool good = r != NULL;
    if (good) {
        report_take(m, r);
        good = ends_in(m->report, ".json")   ? replace(m->report, r, report_as_json)
               : ends_in(m->report, ".prom") ? replace(m->report, r, report_as_prometheus)
                                             : append(m->report, r);
    }
    if (!good)
        log_write(&m->log, TERRACE_LOG_ERROR, "TERRACE_REPORT=%s: the report cannot be written: %s",
                  m->options.value[OPT_REPORT].text, strerror(errno));
    free(r);
    free(m->report); /* once is enough */
    m->report = NULL;
}

void report_open(struct terrace *m)
{
    const char *where = m->options.value[OPT_REPORT].text;
    m->opened_ns = clock_ns();
    if (where && *where && strcmp(where, "0") != 0)
        m->report = strcmp(where, "1") == 0 ? strdup(where) : output_path(where);
}
