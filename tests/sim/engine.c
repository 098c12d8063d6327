/* engine.c - settings, the lock, time and waiting of the simulated accelerator. */
#include "engine.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

struct engine engine = {.lock = PTHREAD_MUTEX_INITIALIZER};

static pthread_once_t started = PTHREAD_ONCE_INIT;

/* ---- settings --------------------------------------------------------------------- */

static const struct setting {
    const char *name;
    int64_t *value;
} settings[] = {
#define SETTING(name, field, otherwise, what) {#name, &engine.settings.field},
    SIM_SETTINGS(SETTING)
#undef SETTING
};
enum { SETTINGS = sizeof settings / sizeof settings[0] };

static int64_t *setting_of(const char *name)
{
    for (int i = 0; i < SETTINGS; i++)
        if (!strcmp(settings[i].name, name))
            return settings[i].value;
    return NULL;
}

static bool parse(const char *text, int64_t *value)
{
    char *end;
    errno = 0;
    *value = strtoll(text, &end, 0);
    int64_t factor = *end == 'K' ? 1 << 10 : *end == 'M' ? 1 << 20 : *end == 'G' ? 1 << 30 : 1;
    *value *= factor;
    return end != text && !errno && (factor > 1 ? end[1] : *end) == 0;
}

static void read_environment(void)
{
    for (int i = 0; i < SETTINGS; i++) {
        char variable[64];
        snprintf(variable, sizeof variable, "%s%s", vendor.prefix, settings[i].name);
        const char *text = getenv(variable);
        if (text && !parse(text, settings[i].value)) {
            fprintf(stderr, "%s=%s is not a number with or without K, M, G\n", variable, text);
            abort();
        }
    }
    if (engine.settings.devices > MAX_DEVICES)
        engine.settings.devices = MAX_DEVICES;
}

SIM_EXPORT bool sim_set(const char *name, int64_t value)
{
    engine_lock();
    int64_t *setting = setting_of(name);
    if (setting)
        *setting = value;
    engine_unlock();
    return setting;
}

SIM_EXPORT int64_t sim_get(const char *name)
{
    engine_lock();
    const int64_t *setting = setting_of(name);
    int64_t value = setting ? *setting : 0;
    engine_unlock();
    return value;
}

/* ---- start --------------------------------------------------------------------------- */

/* A forked child has none of the threads; what was begun before is of no use to it. */
static void forked(void)
{
    engine.forked = engine.initialised;
}

static void start(void)
{
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&engine.progress, &attr);
    pthread_condattr_destroy(&attr);
#define SETTING(name, field, otherwise, what) engine.settings.field = otherwise;
    SIM_SETTINGS(SETTING)
#undef SETTING
    read_environment();
    for (int i = 0; i < MAX_DEVICES; i++) {
        engine.devices[i].id = i;
        engine.devices[i].context.device = &engine.devices[i];
    }
    engine.devices[0].lost_code = (int)engine.settings.lost;
    engine.devices[0].failed = engine.settings.lost ? SIM_ELOST : SIM_OK;
    pthread_atfork(engine_lock, engine_unlock, NULL);
    pthread_atfork(NULL, NULL, forked);
    pthread_atfork(NULL, NULL, engine_unlock);
}

void engine_start(void)
{
    pthread_once(&started, start);
}

void engine_lock(void)
{
    engine_start();
    pthread_mutex_lock(&engine.lock);
}

void engine_unlock(void)
{
    pthread_mutex_unlock(&engine.lock);
}

/* ---- time and waiting ------------------------------------------------------------------- */

uint64_t engine_now(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static struct timespec timespec_of(uint64_t ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000), .tv_nsec = (long)(ns % 1000000000)};
}

void engine_wait_locked(uint64_t ns)
{
    uint64_t most = calls_stall_locked(); /* a call that waits looks from time to time */
    ns = ns < most ? ns : most;
    if (ns == UINT64_MAX) {
        pthread_cond_wait(&engine.progress, &engine.lock);
        return;
    }
    struct timespec until = timespec_of(engine_now() + ns);
    pthread_cond_timedwait(&engine.progress, &engine.lock, &until);
}

void engine_moved_locked(void)
{
    engine.moves++;
    pthread_cond_broadcast(&engine.progress);
}

bool engine_failed_locked(const struct device *device)
{
    return device->failed && !device->moving;
}

void engine_sleep_until_locked(uint64_t ns)
{
    struct timespec until = timespec_of(ns);
    engine_unlock();
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        continue;
    engine_lock();
}

SIM_EXPORT void sim_hold(unsigned kinds)
{
    engine_lock();
    engine.held |= kinds;
    engine_unlock();
}

SIM_EXPORT void sim_let_go(void)
{
    engine_lock();
    engine.held = 0;
    engine_moved_locked();
    engine_unlock();
}

SIM_EXPORT unsigned sim_pending(void)
{
    engine_lock();
    unsigned pending = engine.pending;
    engine_unlock();
    return pending;
}
