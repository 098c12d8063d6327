/* schedule.c - what a program will use next, learned from what it has used.
 *
 * Programs that train or infer do the same again and again. What is learned is
 * a set of lines: the uses of one step each, in order, one line for each kind
 * of step (training, evaluation, ...). Each use knows where in the line its item
 * is used next. While uses come as the line expects them, an item's next use is
 * so known in constant time, and nothing is recorded. Which line follows is
 * predicted from the order of the lines so far, by the longest context that has
 * come before.
 *
 * A use that is not the expected one is, in this order:
 *  1. one that comes a little earlier or later than expected (several threads);
 *  2. where another line goes on that began like this step: that is the one;
 *  3. where some line goes on after the same uses as just now: continue there;
 *  4. something new.
 * From the first such use on the step is recorded, and becomes a line of its own
 * when it ends. How often that happens says whether predictions are `trusted`.
 * Where nothing repeats, recording pauses for longer and longer.
 *
 * Lines speak of places, not of items: a place is the item's identity, and what
 * is created anew in every step (activations) takes over the place of the one
 * that is gone, if that is expected just then and has its size.
 *
 * Programs that never mark a step have one nevertheless: its end is where the
 * recorded uses have repeated themselves once with some period. Two uses are
 * then the same if they are of one place, or of items of one size that are
 * equally many uses old (B. S. Baker: "A theory of parameterized pattern
 * matching", STOC 1993).
 *
 * Virtual time is the position in the lines, one after the other. Uses that are
 * skipped advance it, unexpected ones do not.
 *
 * Limits: see the constants in schedule.h. Of too many lines the ones that came
 * but once leave first, the oldest first. No memory: what has been learned stays,
 * nothing is added.
 *
 * Places and lines: schedule_lines.c. How a step becomes a line: schedule_steps.c.
 *
 * May call: libc, terrace.h, schedule_inside.h. */
#include <stdlib.h>
#include <string.h>

#include "schedule_inside.h"
#include "terrace.h"

enum {
    NEAR = 32,            /* uses that one may be early or late */
    ENOUGH_CONTEXT = 3,
    QUALITY_MOST = 64,
    QUALITY_TRUSTED = 6,
    STUDY_LEAST = 1 << 14, /* uses recorded without finding a period, */
    STUDY_PER_PLACE = 64,  /* then as many per place, before recording pauses */
    FAST_NS = 1000,       /* uses closer than that are not all timed */
    FAST_UNTIMED = 15,
};

/* ---- when an item is used next ------------------------------------------ */

/* Whether the use will be that of a new item in the place. Where the new one
 * outlived the step, that cannot be told before the line has come twice: all
 * items are new to the first. */
static bool of_another(const struct schedule_line *l, uint32_t i)
{
    return l->use[i].fresh == TRANSIENT || (l->use[i].fresh && l->count > 1);
}

void schedule_expect_at(const struct schedule *s, struct schedule_item *item,
                        const struct schedule_line *l, uint32_t i, uint64_t base)
{
    item->dies = of_another(l, i);
    item->next = base + i;
    if (item->dies) {
        uint64_t end = item->last + 1 + s->place[item->place].life;
        item->next = end < s->now ? s->now : end;
    }
}

void schedule_expect_after(const struct schedule *s, struct schedule_item *item)
{
    const struct schedule_line *coming[] = {s->then, s->later};
    uint64_t base = s->base + s->line->length, again = s->base + s->line->interval;
    uint32_t i;
    for (int k = 0; k < 2; k++) {
        i = first_use(coming[k], item->place);
        if (i != NONE) {
            schedule_expect_at(s, item, coming[k], i, base);
            return;
        }
        base += coming[k] ? coming[k]->length : 0;
    }
    i = first_use(s->line, item->place);
    if (i != NONE) { /* when there is a step like this again, not before those */
        schedule_expect_at(s, item, s->line, i, again > base ? again : base);
        return;
    }
    item->next = SCHEDULE_UNKNOWN;
    item->dies = false;
}

/* The use at `i` of the line has come. */
static void expect_next(struct schedule *s, struct schedule_item *item, uint32_t i)
{
    const struct schedule_use *u = &s->line->use[i];
    item->last = s->base + i;
    if (u->next != NONE) {
        item->next = s->base + u->next;
        item->dies = false;
    } else {
        schedule_expect_after(s, item);
    }
}

void schedule_expect_later(struct schedule *s)
{
    const struct schedule_line *l = s->later;
    if (!l || !s->line || l == s->line || l == s->then)
        return;
    uint64_t base = s->base + s->line->length + (s->then ? s->then->length : 0);
    for (uint32_t i = 0; i < l->length; i++) {
        uint32_t place = l->use[i].place;
        if (l->first[place] == i && s->place[place].item && first_use(s->line, place) == NONE &&
            first_use(s->then, place) == NONE)
            schedule_expect_at(s, s->place[place].item, l, i, base);
    }
    s->epoch++;
}

void schedule_retime(struct schedule *s)
{
    const struct schedule_line *l = s->line;
    s->epoch++;
    for (uint32_t i = 1; i < s->places; i++) {
        struct schedule_item *item = s->place[i].item;
        if (item && l)
            schedule_expect_after(s, item);
        else if (item)
            item->next = SCHEDULE_UNKNOWN;
    }
    for (uint32_t i = l ? l->length : 0; i-- > s->at;) {
        struct schedule_item *item = s->place[l->use[i].place].item;
        if (item)
            schedule_expect_at(s, item, l, i, s->base);
    }
    uint64_t cost = s->places + (l ? l->length : 0u);
    s->credit = s->credit > cost ? s->credit - cost : 0;
}

static bool affordable(const struct schedule *s, const struct schedule_line *l)
{
    return s->credit >= s->places + (uint64_t)l->length;
}

/* Which use virtual time `when` means, and in which of the lines to come: 0 the
 * present one. */
static const struct schedule_use *use_at(const struct schedule *s, uint64_t when, int *which)
{
    const struct schedule_line *coming[] = {s->line, s->then, s->later, s->line};
    if (when < s->base)
        return NULL;
    when -= s->base;
    for (int k = 0; k < 4; k++) {
        uint64_t length = coming[k] ? coming[k]->length : 0;
        if (when < length) {
            *which = k;
            return &coming[k]->use[when];
        }
        when -= length;
    }
    return NULL;
}

unsigned schedule_next_mode(const struct schedule *s, const struct schedule_item *item)
{
    int which;
    const struct schedule_use *u;
    if (item->next == SCHEDULE_UNKNOWN || item->dies || !s->line)
        return 0;
    u = use_at(s, item->next, &which);
    return u && u->place == item->place ? u->mode : 0;
}

static uint64_t time_so_far(const struct schedule *s)
{
    return s->line && s->at ? s->line->use[s->at - 1].at : 0;
}

uint64_t schedule_ns_until(const struct schedule *s, uint64_t when)
{
    int which;
    const struct schedule_use *u = when == SCHEDULE_UNKNOWN ? NULL : use_at(s, when, &which);
    if (!u)
        return when == SCHEDULE_UNKNOWN ? UINT64_MAX : 0;
    uint64_t at = u->at, so_far = time_so_far(s);
    if (which > 0)
        at += s->line->ns;
    if (which > 1 && s->then)
        at += s->then->ns;
    if (which > 2 && s->later)
        at += s->later->ns;
    return at > so_far ? at - so_far : 0;
}

/* ---- finding one's way -------------------------------------------------- */

/* Whether the item may be the one the line expects there. `loose`: also where
 * its size is another. */
static bool fits(const struct schedule *s, const struct schedule_line *l, uint32_t i,
                 const struct schedule_item *item, bool loose)
{
    const struct schedule_use *u = &l->use[i];
    if (item->place || item->born)
        return u->place == item->place;
    if (s->place[u->place].item && !of_another(l, i))
        return false;
    return loose || s->place[u->place].bytes == item->bytes;
}

static void take_time(struct schedule *s, struct schedule_use *u, uint64_t ns)
{
    s->since++;
    if (s->untimed)
        s->untimed--;
    if (ns == 0)
        return;
    if (!s->start || ns < s->start)
        s->start = ns > u->at ? ns - u->at : ns;
    uint64_t before = s->elapsed;
    s->elapsed = ns - s->start;
    bool fast = s->elapsed >= before && s->elapsed - before < (uint64_t)FAST_NS * s->since;
    s->untimed = fast ? FAST_UNTIMED : 0;
    s->since = 0;
    u->at = s->elapsed;
}

static void good(struct schedule *s)
{
    s->hits++;
    s->strays = 0;
    if (s->quality < QUALITY_MOST && ++s->quality >= QUALITY_TRUSTED)
        s->trusted = true;
}

static void poor(struct schedule *s, int how)
{
    s->quality -= how;
    if (s->quality <= 0) {
        s->quality = 0;
        s->trusted = false;
    }
}

/* The use at `i` of the line is this one. */
static void follow(struct schedule *s, struct schedule_item *item, uint32_t i, unsigned tier,
                   unsigned mode, uint64_t ns)
{
    struct schedule_use *u = &s->line->use[i];
    if (u->place != item->place) {
        schedule_place_settle(s, u->place, item);
        u->fresh = TRANSIENT;
    } else if (u->fresh && item->born) {
        u->fresh = PERSISTENT;
    }
    item->born = true;
    u->tier = (uint8_t)tier;
    u->mode = (uint8_t)mode;
    take_time(s, u, ns);
    s->at = i + 1;
    s->now = s->base + i + 1;
    expect_next(s, item, i);
    if (!s->clean)
        schedule_record(s, u);
    if (s->at == s->line->length && !s->stepped)
        schedule_step_end(s);
}

/* Goes on at `i` of a line. */
static void go_to(struct schedule *s, struct schedule_line *l, uint32_t i)
{
    bool ahead = l == s->line && i >= s->at; /* what is skipped stays as it was expected */
    uint64_t base = ahead ? s->base : s->now - i;
    s->line = l;
    s->at = i;
    s->base = base;
    s->now = base + i;
    s->start = 0; /* to be set by what this line says */
    if (ahead)
        return;
    schedule_predict(s);
    schedule_retime(s);
}

/* 1: a little early or late. True: it has been dealt with. */
static bool nearby(struct schedule *s, struct schedule_item *item, unsigned tier, unsigned mode,
                   uint64_t ns)
{
    if (!item->place || item->next == SCHEDULE_UNKNOWN || item->dies || item->next < s->base ||
        item->next >= s->base + s->line->length)
        return false;
    uint32_t i = (uint32_t)(item->next - s->base), at = s->at;
    if (s->line->use[i].place != item->place || i > at + NEAR || i + NEAR < at)
        return false;
    uint64_t error = i > at ? i - at : at - i, interval = item->next - item->last;
    uint64_t now = s->now;
    schedule_record_begin(s);
    if (error * 8 <= interval)
        good(s);
    else
        poor(s, 4);
    if (i > at) {
        follow(s, item, i, tier, mode, ns);
        return true;
    }
    struct schedule_use use = s->line->use[i];
    take_time(s, &use, ns);
    expect_next(s, item, i);
    schedule_record(s, &use);
    s->now = now;
    return true;
}

/* 2: another line that began like this step. */
static bool other_line(struct schedule *s, const struct schedule_item *item)
{
    uint32_t n = schedule_uses_so_far(s), hash = s->hash;
    struct schedule_line *best = NULL;
    if (s->clean && s->line)
        hash = n ? s->line->use[n - 1].hash : 0;
    for (int k = 0; k < SCHEDULE_LINES; k++) {
        struct schedule_line *l = s->known[k];
        if (!l || l->length <= n || (n && l->use[n - 1].hash != hash) || !fits(s, l, n, item, false))
            continue;
        if (!best || l->last > best->last)
            best = l;
    }
    if (!best || (best == s->line && s->clean) || !affordable(s, best))
        return false;
    go_to(s, best, n);
    s->origin += s->recorded;
    s->recorded = 0;
    s->clean = true;
    return true;
}

static uint32_t context(const struct schedule *s, const struct schedule_line *l, uint32_t i)
{
    uint32_t n = 0;
    while (n < CONTEXT && n < i && n < s->recorded &&
           l->use[i - 1 - n].place == s->record[s->recorded - 1 - n].place)
        n++;
    return n;
}

/* 3: where it goes on in some line after what came last. */
static bool same_context(struct schedule *s, const struct schedule_item *item)
{
    struct schedule_line *best = NULL;
    uint32_t where = 0, most = 0;
    if (!item->place || s->recorded < ENOUGH_CONTEXT || (s->strays > TRY_EVERY && s->strays % 8))
        return false;
    for (int k = 0; k < SCHEDULE_LINES; k++) {
        struct schedule_line *l = s->known[k];
        uint32_t i = first_use(l, item->place);
        for (int tries = 0; i != NONE && tries < CHAIN; tries++, i = l->use[i].next) {
            uint32_t same = context(s, l, i);
            if (same > most || (same == most && l == s->line)) {
                best = l;
                where = i;
                most = same;
            }
        }
    }
    if (!best || most < ENOUGH_CONTEXT || !affordable(s, best))
        return false;
    uint32_t head = s->recorded - where; /* uses before that line began */
    if (!s->stepped && most == where && s->recorded > where) {
        uint8_t index = best->index;
        struct schedule_line *l = head < LEAST_PERIOD ? NULL : schedule_line_of_record(s, 0, head);
        if (l && l->index == index && l->count == 0)
            return false; /* that line had to make room for it */
        if (l)
            schedule_lines_order(s, l);
        best = s->known[index];
        if (!best)
            return false;
        s->hits = 0;
        s->origin += s->recorded;
        s->recorded = 0;
        s->clean = true;
    }
    go_to(s, best, where);
    return true;
}

/* ---- a use -------------------------------------------------------------- */

/* 4: something new. */
static void unknown(struct schedule *s, struct schedule_item *item, unsigned tier, unsigned mode,
                    uint64_t ns)
{
    s->strays++;
    poor(s, 8);
    bool fresh = !item->born && !item->place;
    if (!item->place) {
        uint32_t place = schedule_place_take(s);
        if (place)
            schedule_place_settle(s, place, item);
    }
    if (item->next < s->now || item->dies || !s->line)
        item->next = SCHEDULE_UNKNOWN;
    item->dies = false;
    item->last = s->now;
    item->born = true;
    struct schedule_use use = {.place = item->place, .tier = (uint8_t)tier, .mode = (uint8_t)mode,
                               .fresh = fresh ? FRESH : PERSISTENT, .at = s->elapsed};
    take_time(s, &use, ns);
    use.at = s->elapsed;
    if (item->place)
        schedule_record(s, &use);
    else
        s->recording = false;
    if (!s->recording) /* too long: there is no step here to be learned */
        s->overflowed |= s->recorded == SCHEDULE_STEP_MOST;
    s->stepped &= !s->overflowed;
    if (s->stepped)
        return;
    if (s->recording && s->recorded < STUDY_LEAST + STUDY_PER_PLACE * (uint64_t)s->places)
        schedule_period_look(s);
    else
        schedule_rest(s, 2 * (uint64_t)s->recorded << (s->bad < 6 ? s->bad++ : 6));
}

/* The same item twice in a row is one use; how it is used adds up. */
static unsigned mode_sum(unsigned first, unsigned second)
{
    if (first & TERRACE_OVERWRITE)
        return first;
    return first | (second & TERRACE_READ) | (second & ~(unsigned)TERRACE_READ ? TERRACE_WRITE : 0);
}

static void again(struct schedule *s, unsigned mode)
{
    struct schedule_use *u = NULL;
    if (!s->clean && s->recorded)
        u = &s->record[s->recorded - 1];
    else if (s->clean && s->at)
        u = &s->line->use[s->at - 1];
    if (u)
        u->mode = (uint8_t)mode_sum(u->mode, mode);
}

static bool asleep(struct schedule *s, struct schedule_item *item)
{
    item->next = SCHEDULE_UNKNOWN;
    if (s->stepped)
        return true;
    if (--s->sleep)
        return true;
    schedule_begin(s);
    return false;
}

static __attribute__((noinline)) void unexpected(struct schedule *s, struct schedule_item *item,
                                                 unsigned tier, unsigned mode, uint64_t ns)
{
    if (s->sleep && asleep(s, item))
        return;
    bool expecting = s->line && s->at < s->line->length;
    if (expecting && fits(s, s->line, s->at, item, false)) {
        good(s);
        follow(s, item, s->at, tier, mode, ns);
        return;
    }
    if (s->line && nearby(s, item, tier, mode, ns))
        return;
    bool found = other_line(s, item);
    if (!found && expecting && fits(s, s->line, s->at, item, true)) {
        good(s); /* of another size, and still in its place */
        follow(s, item, s->at, tier, mode, ns);
        return;
    }
    if (!found) {
        schedule_record_begin(s);
        found = same_context(s, item);
    }
    if (!found) {
        unknown(s, item, tier, mode, ns);
        return;
    }
    poor(s, 4);
    s->strays = 0;
    s->hits++;
    follow(s, item, s->at, tier, mode, ns);
}

void schedule_use(struct schedule *s, struct schedule_item *item, unsigned tier, unsigned mode,
                  uint64_t ns)
{
    const struct schedule_line *l = s->line;
    mode &= TERRACE_READ | TERRACE_WRITE | TERRACE_OVERWRITE;
    if (item == s->latest) {
        again(s, mode);
        return;
    }
    s->latest = item;
    if (l && s->at < l->length && l->use[s->at].place == item->place) { /* the usual case */
        good(s);
        follow(s, item, s->at, tier, mode, ns);
        return;
    }
    unexpected(s, item, tier, mode, ns);
}

/* ---- the uses to come --------------------------------------------------- */

void schedule_coming(const struct schedule *s, struct schedule_cursor *c)
{
    *c = (struct schedule_cursor){.schedule = s, .line = s->line, .at = s->at, .base = s->base};
}

bool schedule_coming_next(struct schedule_cursor *c, struct schedule_coming *out)
{
    const struct schedule *s = c->schedule;
    const struct schedule_line *coming[] = {s->then, s->later};
    while (c->line) {
        if (c->at == c->line->length) {
            c->base += c->line->length;
            c->before += c->line->ns;
            c->line = c->ahead < 2 ? coming[c->ahead] : NULL;
            c->ahead++;
            c->at = 0;
            continue;
        }
        const struct schedule_use *u = &c->line->use[c->at];
        uint64_t at = c->before + u->at, so_far = time_so_far(s);
        struct schedule_item *item = s->place[u->place].item;
        c->at++;
        if (!item || of_another(c->line, c->at - 1))
            continue;
        *out = (struct schedule_coming){.item = item, .when = c->base + c->at - 1, .tier = u->tier,
                                        .ns = at > so_far ? at - so_far : 0, .mode = u->mode};
        return true;
    }
    return false;
}

/* ---- all of it ---------------------------------------------------------- */

void schedule_init(struct schedule *s)
{
    *s = (struct schedule){.now = (uint64_t)1 << 32, .recording = true, .credit = CREDIT_MOST};
    s->base = s->now;
}

void schedule_free(struct schedule *s)
{
    for (int k = 0; k < SCHEDULE_LINES; k++)
        if (s->known[k])
            schedule_line_free(s, k);
    free(s->record);
    free(s->place);
    free(s->claim);
    *s = (struct schedule){0};
}
