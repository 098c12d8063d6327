/* manager.c - opening and closing a manager, its lock, and fork.
 *
 * A forked child has the manager's memory but not its threads. Each manager
 * keeps a page that the kernel zeroes in a child (MADV_WIPEONFORK): every
 * public call reads it first, for the price of a load, and no fork handler is
 * needed, which raw clone() would bypass anyway. (Only address-stable memory has
 * some: forked.c.)
 *
 * May call: core.h, device_stable.h, forked.h, lease.h, live.h, mapped.h, process.h, report.h, rules.h, seal.h,
 * small.h, trace.h. */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "device_stable.h"
#include "forked.h"
#include "lease.h"
#include "live.h"
#include "mapped.h"
#include "mover.h"
#include "prefetch.h"
#include "process.h"
#include "report.h"
#include "rules.h"
#include "seal.h"
#include "small.h"
#include "stable.h"
#include "trace.h"

enum { PAGE = 4096 };

/* ---- the lock ---------------------------------------------------------- */

#ifndef NDEBUG

/* The manager of tensors that have been destroyed: no call can use it. */
static struct terrace destroyed = {.alive = (const unsigned char[]){0}};

/* The last ones, of all managers. */
void handle_free(void *handle)
{
    enum { LAST = 256 };
    static void *_Atomic last[LAST];
    static atomic_uint next;
    *(struct terrace **)handle = &destroyed; /* the first member of every handle */
    free(atomic_exchange(&last[next++ % LAST], handle));
}

static bool is_destroyed(const struct terrace *m)
{
    return m == &destroyed;
}

#else

void handle_free(void *handle)
{
    free(handle);
}

static bool is_destroyed(const struct terrace *m)
{
    (void)m;
    return false;
}

#endif

int manager_refuse(const struct terrace *m)
{
    if (!m)
        return error_set(-TERRACE_EINVAL, "the manager is NULL");
    if (is_destroyed(m))
        return error_set(-TERRACE_EINVAL, "this tensor has been destroyed: destroy it once, after its last use");
    return error_set(-TERRACE_EFORK, "this manager belongs to the parent process: open one of the "
                     "child's own with terrace_open()");
}

void manager_lock(struct terrace *m)
{
    pthread_mutex_lock(&m->lock);
}

void manager_unlock(struct terrace *m)
{
    unsigned kick = m->kick;
    bool stable = stable_kicked_locked(m);
    m->kick = 0;
    pthread_mutex_unlock(&m->lock);
    if (stable)
        stable_kick(m);
    for (unsigned i = 0; kick; i++, kick >>= 1)
        if (kick & 1)
            m->tier[i].backend->wake(m->tier[i].unit);
}

void manager_kick_locked(struct terrace *m, const struct tier *tier)
{
    if (!tier->lane)
        return;
    tier->lane->again = true;
    if (tier->lane->sleeping)
        m->kick |= 1u << (tier - m->tier);
}

void manager_changed_locked(struct terrace *m)
{
    pthread_cond_broadcast(&m->changed);
    stable_changed_locked(m);
}

void manager_wait(struct terrace *m)
{
    if (m->kick || (m->stable && stable_work_locked(m))) { /* first those who are to bring about the change */
        manager_unlock(m);
        manager_lock(m);
        return;
    }
    pthread_cond_wait(&m->changed, &m->lock);
}

uint64_t clock_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- services for backends --------------------------------------------- */

static const char *host_option(void *context, const char *name)
{
    const struct terrace *m = context;
    return options_text(&m->options, name);
}

static void host_log(void *context, int level, const char *format, ...)
{
    const struct terrace *m = context;
    va_list args;
    va_start(args, format);
    log_vwrite(&m->log, level, format, args);
    va_end(args);
}

static int host_fail(void *context, int err, const char *format, ...)
{
    (void)context;
    va_list args;
    va_start(args, format);
    err = error_vset(err, format, args);
    va_end(args);
    return err;
}

/* ---- opening ----------------------------------------------------------- */

static int alive_open(struct terrace *m)
{
    void *page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        return error_set(-TERRACE_ENOMEM, "no host memory");
    if (madvise(page, PAGE, MADV_WIPEONFORK)) {
        int e = errno;
        munmap(page, PAGE);
        return error_set(-TERRACE_ENOTSUP, "forks cannot be noticed (MADV_WIPEONFORK: %s); Linux "
                         "4.14 or later is needed", strerror(e));
    }
    *(unsigned char *)page = 1;
    m->alive = page;
    return 0;
}

static int settings_open(struct terrace *m, const char *conf)
{
    int r = options_parse(&m->options, conf);
    if (r)
        return r;
    const struct option_value *v = m->options.value;
    r = log_open(&m->log, (int)v[OPT_LOG].number, v[OPT_LOG_FILE].text);
    if (r) {
        options_free(&m->options);
        return r;
    }
    for (unsigned i = 0; i < m->options.unknowns; i++)
        log_write(&m->log, TERRACE_LOG_WARN, "%s", m->options.unknown[i]);
    const char *ahead = v[OPT_PREFETCH].text;
    m->prefetch_limit = strcmp(ahead, "auto") == 0 ? UINT64_MAX
                      : strcmp(ahead, "off") == 0  ? 0
                                                   : v[OPT_PREFETCH].number;
    return 0;
}

static void settings_close(struct terrace *m)
{
    log_close(&m->log);
    options_free(&m->options);
    free(m->report);
}

static int manager_init(struct terrace *m, const char *conf)
{
    m->host = (terrace_host){.size = sizeof m->host, .context = m, .option = host_option,
                             .log = host_log, .fail = host_fail};
    pthread_mutex_init(&m->lock, NULL);
    pthread_cond_init(&m->changed, NULL);
    LIST_INIT(&m->all);
    LIST_INIT(&m->logs);
    int r = settings_open(m, conf);
    if (r)
        return r;
    const struct option_value *v = m->options.value;
    report_open(m);
    r = alive_open(m);
    if (r)
        goto close_settings;
    r = sealer_open(&m->sealer, (enum seal_verify)v[OPT_VERIFY].number, v[OPT_ENCRYPT].number);
    if (r)
        goto unmap_alive;
    r = tiers_open(m);
    if (r)
        goto close_sealer;
    r = rules_open(m);
    if (r)
        goto close_tiers;
    r = forks_open(m);
    if (r)
        goto close_rules;
    smalls_open(m);
    prefetch_open(m);
    trace_open(m);
    live_open(m);
    return 0;
close_rules:
    rules_close(m);
close_tiers:
    tiers_close(m);
close_sealer:
    sealer_close(m->sealer);
unmap_alive:
    munmap((void *)m->alive, PAGE);
close_settings:
    settings_close(m);
    return r;
}

static void manager_free(struct terrace *m)
{
    pthread_cond_destroy(&m->changed);
    pthread_mutex_destroy(&m->lock);
    free(m);
}

int manager_open(struct terrace **out, const char *conf)
{
    struct terrace *m = calloc(1, sizeof *m);
    if (!m)
        return error_set(-TERRACE_ENOMEM, "no host memory for a manager");
    int r = manager_init(m, conf);
    if (r) {
        manager_free(m);
        return r;
    }
    for (unsigned i = 0; i < m->tiers; i++)
        log_write(&m->log, TERRACE_LOG_INFO, "%s: %s; budget %llu bytes: %s; engine %s: %s",
                  m->tier[i].name, m->tier[i].info.location,
                  (unsigned long long)m->tier[i].arena.limit, m->tier[i].limit_reason,
                  m->tier[i].info.engine, m->tier[i].info.engine_reason);
    *out = m;
    return 0;
}

int terrace_open(terrace **out, const char *conf)
{
    if (!out)
        return error_set(-TERRACE_EINVAL, "terrace_open: out is NULL");
    int r = process_join(conf, out);
    return r > 0 ? manager_open(out, conf) : r;
}

/* Tensors that are left, once no lane runs any more. */
static void destroy_all(struct terrace *m)
{
    struct terrace_tensor *t, *next;
    manager_lock(m);
    for (t = LIST_FIRST(&m->all); t; t = next) {
        next = LIST_NEXT(t, all);
        t->doomed = true;
        lease_close_locked(t);
        for (unsigned i = 0; i < m->tiers; i++)
            while (copy_unpin_locked(&t->copy[i]))
                ;
        tensor_reap_locked(t);
    }
    manager_unlock(m);
}

void terrace_close(terrace *m)
{
    if (!m || !*m->alive)
        return; /* a child's copy of the parent's manager goes with the child */
    if (!process_leave(m))
        manager_close(m);
}

void manager_close(struct terrace *m)
{
    forks_close(m);
    manager_lock(m);
    leases_drain_locked(m);
    manager_unlock(m);
    stable_stop(m);
    for (unsigned i = 0; i < m->tiers; i++)
        lane_stop(&m->tier[i]);
    live_close(m);
    trace_end(m);
    report_write(m);
    trace_close(m);
    prefetch_save(m);
    stable_close(m);
    mapped_close(m);
    device_stable_close(m);
    smalls_close(m);
    destroy_all(m);
    leases_end(m);
    forks_free(m);
    rules_close(m);
    tiers_close(m);
    sealer_close(m->sealer);
    schedule_free(&m->schedule);
    while (m->spare_pins) {
        struct pin *next = m->spare_pins->next;
        free(m->spare_pins);
        m->spare_pins = next;
    }
    munmap((void *)m->alive, PAGE);
    settings_close(m);
    manager_free(m);
}
