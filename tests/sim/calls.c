/* calls.c - what happens at each entry of a simulated runtime: calls are counted
 * and may be made to fail, misuses are noted, and a call that waits in vain says
 * what for. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "stream.h"

enum { RULES = 32, MISUSES = 64 };

static struct rule {
    char call[64]; /* "": any */
    unsigned wait; /* calls before it */
    unsigned times; /* calls, UINT32_MAX: for ever; 0: no rule */
    int code;
} rules[RULES];

static struct entry *entries;
static char *misuses[MISUSES]; /* the first ones */
static unsigned n_misuses;

__thread const char *calls_inside;

/* The call this thread is in, since when nothing moved, and whether that was said. */
static __thread struct {
    const char *name;
    uint64_t moves, since;
    bool said;
} call;

/* ---- misuse --------------------------------------------------------------------------- */

static void note_misuse_locked(const char *format, va_list args)
{
    char *text = NULL;
    if (vasprintf(&text, format, args) < 0)
        return;
    if (engine.settings.verbose)
        fprintf(stderr, "simulated runtime: misuse: %s\n", text);
    if (n_misuses < MISUSES)
        misuses[n_misuses] = text;
    else
        free(text);
    n_misuses++;
}

void misuse_locked(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    note_misuse_locked(format, args);
    va_end(args);
}

void misuse(const char *format, ...)
{
    va_list args;
    engine_lock();
    va_start(args, format);
    note_misuse_locked(format, args);
    va_end(args);
    engine_unlock();
}

SIM_EXPORT unsigned sim_misuses(void)
{
    engine_lock();
    unsigned n = n_misuses;
    engine_unlock();
    return n;
}

SIM_EXPORT const char *sim_misuse(unsigned i)
{
    engine_lock();
    const char *text = i >= n_misuses ? NULL : i < MISUSES ? misuses[i] : "(one of many)";
    engine_unlock();
    return text;
}

SIM_EXPORT void sim_forget_misuses(void)
{
    engine_lock();
    for (unsigned i = 0; i < n_misuses && i < MISUSES; i++)
        free(misuses[i]);
    n_misuses = 0;
    engine_unlock();
}

/* ---- waiting in vain ----------------------------------------------------------------------- */

static void stalled_locked(void)
{
    const char *waiting = stream_stuck_locked();
    misuse_locked("%s has waited for %lld ms in which nothing moved%s%s", call.name,
                  (long long)engine.settings.stall_ms, *waiting ? ": " : "", waiting);
    fprintf(stderr, "simulated runtime: %s waits in vain: %s\n", call.name, waiting);
    call.said = true;
}

uint64_t calls_stall_locked(void)
{
    if (!call.name || call.said || engine.settings.stall_ms <= 0)
        return UINT64_MAX;
    uint64_t now = engine_now(), limit = (uint64_t)engine.settings.stall_ms * 1000000;
    if (call.moves != engine.moves || !call.since) {
        call.moves = engine.moves;
        call.since = now;
    } else if (now - call.since >= limit) {
        stalled_locked();
        return UINT64_MAX;
    }
    return call.since + limit - now + 1000;
}

/* ---- entering --------------------------------------------------------------------------------- */

static void count_locked(struct entry *entry)
{
    if (!entry->listed) {
        entry->next = entries;
        entries = entry;
        entry->listed = true;
    }
    entry->calls++;
}

SIM_EXPORT unsigned sim_calls(const char *name)
{
    unsigned calls = 0;
    engine_lock();
    for (const struct entry *entry = entries; entry; entry = entry->next)
        calls += strcmp(entry->name, name) ? 0 : entry->calls;
    engine_unlock();
    return calls;
}

SIM_EXPORT void sim_fail(const char *name, unsigned nth, unsigned times, int code)
{
    engine_lock();
    struct rule *free_rule = NULL;
    for (int i = 0; i < RULES; i++) {
        if (!code && rules[i].times && !strcmp(rules[i].call, name ? name : ""))
            rules[i].times = 0;
        if (!rules[i].times && !free_rule)
            free_rule = &rules[i];
    }
    if (code && free_rule) {
        *free_rule = (struct rule){.wait = nth ? nth - 1 : 0, .times = times ? times : UINT32_MAX,
                                   .code = code};
        snprintf(free_rule->call, sizeof free_rule->call, "%s", name ? name : "");
    }
    engine_unlock();
}

static int injected_locked(const char *name)
{
    int code = 0;
    for (int i = 0; i < RULES; i++) {
        struct rule *rule = &rules[i];
        if (!rule->times || (*rule->call && strcmp(rule->call, name) != 0))
            continue;
        if (rule->wait) {
            rule->wait--;
            continue;
        }
        rule->times -= rule->times != UINT32_MAX;
        code = code ? code : rule->code;
    }
    return code;
}

SIM_EXPORT void sim_lose(int device, unsigned nth, int code)
{
    engine_lock();
    if (device >= 0 && device < MAX_DEVICES) {
        engine.devices[device].lost_code = code;
        engine.devices[device].lose_in = nth;
        if (!nth)
            work_fail_locked(&engine.devices[device], SIM_ELOST);
    }
    engine_unlock();
}

static int refused_locked(const char *name, unsigned conditions)
{
    if (calls_inside) {
        misuse_locked("%s is called in %s", name, calls_inside);
        return SIM_ENOTPERMITTED;
    }
    if (conditions && (engine.forked || !engine.initialised))
        return SIM_ENOTINIT;
    const struct context *context = context_current();
    bool needed = conditions & ENTRY_CONTEXT;
    if (needed && (!context || !context->retained))
        return context ? SIM_EDESTROYED : SIM_ENOCONTEXT;
    if (needed && context->device->failed && !(conditions & ENTRY_CLEANUP))
        return context->device->failed;
    return conditions & ENTRY_UNSAFE ? capture_refuse_unsafe_locked() : SIM_OK;
}

int entry_enter(struct entry *entry, unsigned conditions)
{
    engine_lock();
    count_locked(entry);
    int refused = refused_locked(entry->name, conditions);
    int code = refused ? vendor.code(refused) : injected_locked(entry->name);
    call.name = entry->name;
    call.since = 0;
    call.said = false;
    engine_unlock();
    if (code)
        call.name = NULL;
    return code;
}

int entry_leave(int error)
{
    call.name = NULL;
    engine_lock();
    const struct context *context = context_current();
    if (!error && context && context->device->failed)
        error = context->device->failed;
    int code = error ? vendor.code(error) : 0;
    engine_unlock();
    return code;
}
