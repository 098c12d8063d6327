/* schedule_steps.c - a step is recorded, ends, and becomes a line; which one follows.
 * The period of programs that mark no steps.
 *
 * May call: libc, schedule_inside.h. */
#include <stdlib.h>
#include <string.h>

#include "schedule_inside.h"

enum { BAD_STEPS = 4 /* then recording pauses */ };

/* ---- which step follows ------------------------------------------------- */

/* What has followed the longest context like the present one, the last time.
 * `order` has n lines. */
static uint8_t predict(const uint8_t *order, unsigned n)
{
    unsigned most = 0;
    uint8_t best = n ? order[n - 1] : UINT8_MAX;
    for (unsigned end = n; end-- > 1 && most < CONTEXT;) { /* order[end - 1] as if it were the last */
        unsigned same = 0;
        while (same < CONTEXT && same < end && order[end - 1 - same] == order[n - 1 - same] &&
               order[end - 1 - same] != UINT8_MAX)
            same++;
        if (same > most && order[end] != UINT8_MAX) {
            most = same;
            best = order[end];
        }
    }
    return best;
}

void schedule_predict(struct schedule *s)
{
    uint8_t order[SCHEDULE_RECENT + 3];
    struct schedule_line **out[] = {&s->then, &s->later};
    unsigned n = s->recents;
    memcpy(order, s->recent, n);
    order[n++] = s->line ? s->line->index : UINT8_MAX;
    for (int k = 0; k < 2; k++) {
        order[n] = predict(order, n);
        *out[k] = order[n] == UINT8_MAX ? NULL : s->known[order[n]];
        n++;
    }
}

void schedule_begin(struct schedule *s)
{
    const struct schedule_line *then = s->then, *later = s->later;
    uint8_t next = predict(s->recent, s->recents);
    s->line = next == UINT8_MAX ? NULL : s->known[next];
    s->at = 0;
    s->base = s->now;
    s->clean = s->line != NULL;
    s->recording = true;
    s->origin += s->recorded;
    s->recorded = s->hits = s->hash = s->strays = 0;
    s->period = s->run = s->next_try = 0;
    schedule_predict(s);
    if (s->line != then || s->then != later)
        schedule_retime(s);
    else
        schedule_expect_later(s);
}

/* ---- recording ---------------------------------------------------------- */

static bool record_room(struct schedule *s, uint32_t want)
{
    uint32_t room = s->room ? s->room : 1024;
    while (room < want)
        room *= 2;
    if (room > SCHEDULE_STEP_MOST)
        return false;
    if (room == s->room)
        return true;
    struct schedule_use *more = realloc(s->record, room * sizeof *more);
    if (!more)
        return false;
    s->record = more;
    s->room = room;
    return true;
}

void schedule_record(struct schedule *s, const struct schedule_use *use)
{
    if (!s->recording || (s->recorded == s->room && !record_room(s, s->recorded + 1))) {
        s->recording = false;
        return;
    }
    struct schedule_use *u = &s->record[s->recorded];
    struct schedule_place *p = &s->place[use->place];
    uint64_t number = s->origin + ++s->recorded;
    *u = *use;
    u->back = p->latest > s->origin ? (uint32_t)(number - p->latest) : 0;
    u->hash = s->hash = hash_on(s->hash, use->place);
    p->latest = number;
    if (u->fresh)
        p->birth = number;
}

void schedule_record_begin(struct schedule *s)
{
    if (!s->clean)
        return;
    s->clean = false;
    s->hash = 0;
    if (record_room(s, s->at + 1))
        for (uint32_t i = 0; i < s->at; i++)
            schedule_record(s, &s->line->use[i]);
    else
        s->recording = false;
}

uint32_t schedule_uses_so_far(const struct schedule *s)
{
    return s->clean ? s->at : s->recorded;
}

/* ---- the end of a step -------------------------------------------------- */

/* A known line that is the same as what was recorded, brought up to date. */
static struct schedule_line *line_same(struct schedule *s, const struct schedule_use *use,
                                       uint32_t length, uint32_t hash)
{
    for (int k = 0; k < SCHEDULE_LINES; k++) {
        struct schedule_line *l = s->known[k];
        if (!l || l->length != length || l->use[length - 1].hash != hash)
            continue;
        uint32_t i = 0;
        while (i < length && l->use[i].place == use[i].place)
            i++;
        if (i < length)
            continue;
        for (i = 0; i < length; i++) {
            l->use[i].at = use[i].at;
            l->use[i].tier = use[i].tier;
            l->use[i].mode = use[i].mode;
            l->use[i].fresh = use[i].fresh;
        }
        return l;
    }
    return NULL;
}

struct schedule_line *schedule_line_of_record(struct schedule *s, uint32_t from, uint32_t length)
{
    uint32_t hash = 0;
    if (length == 0 || !s->recording)
        return NULL;
    for (uint32_t i = 0; i < length; i++)
        hash = hash_on(hash, s->record[from + i].place);
    struct schedule_line *l = line_same(s, s->record + from, length, hash);
    if (!l)
        l = schedule_line_make(s, s->record + from, length);
    return l;
}

void schedule_lines_order(struct schedule *s, struct schedule_line *l)
{
    if (s->recents == SCHEDULE_RECENT)
        memmove(s->recent, s->recent + 1, --s->recents);
    s->recent[s->recents++] = l->index;
    l->count++;
    l->last = ++s->steps;
    l->interval = l->ended && s->now > l->ended ? s->now - l->ended : 0;
    l->ended = s->now;
}

void schedule_rest(struct schedule *s, uint64_t time)
{
    s->sleep = time ? time : 1;
    s->line = s->then = s->later = NULL;
    s->clean = s->trusted = false;
    s->origin += s->recorded;
    s->recorded = s->at = 0;
    s->quality = 0;
    s->epoch++;
}

/* Whether it is worth going on; if not, for how many steps to rest. */
static uint64_t fatigue(struct schedule *s, uint32_t uses)
{
    s->bad = s->hits >= uses / 2 ? 0 : s->bad + 1;
    unsigned more = s->bad < BAD_STEPS ? 0 : s->bad - BAD_STEPS + 1;
    return more == 0 ? 0 : (uint64_t)1 << (more < 6 ? more : 6);
}

void schedule_step_end(struct schedule *s)
{
    struct schedule_line *l = s->line;
    uint32_t uses = schedule_uses_so_far(s);
    bool whole = s->clean && s->at == l->length;
    uint64_t end = l ? s->base + l->length : s->now;
    if (uses == 0)
        return;
    if (!whole) {
        schedule_record_begin(s);
        l = schedule_line_of_record(s, 0, s->recorded);
        s->then = NULL; /* what was predicted for after this step is void */
    }
    s->credit += 8 * (uint64_t)uses;
    if (s->credit > CREDIT_MOST)
        s->credit = CREDIT_MOST;
    s->now = end > s->now ? end : s->now;
    if (l) {
        l->ns = s->elapsed;
        schedule_lines_order(s, l);
    }
    uint64_t pause = fatigue(s, uses);
    if (pause && s->stepped) {
        schedule_rest(s, pause);
        return;
    }
    schedule_begin(s);
    s->start += s->elapsed; /* as good as now, in time not spent waiting */
    s->elapsed = 0;
}

void schedule_step(struct schedule *s, uint64_t ns)
{
    if (s->overflowed)
        return; /* what the program calls a step is too long */
    s->stepped = true;
    s->latest = NULL;
    if (s->sleep) {
        if (--s->sleep == 0)
            schedule_begin(s);
        s->start = ns;
        s->elapsed = 0;
        return;
    }
    if (ns && s->start && ns > s->start)
        s->elapsed = ns - s->start;
    schedule_step_end(s);
}

/* ---- periods ------------------------------------------------------------ */

static bool same_use(const struct schedule *s, uint32_t i, uint32_t period)
{
    const struct schedule_use *a = &s->record[i], *b = &s->record[i - period];
    if (a->place == b->place)
        return a->tier == b->tier;
    const struct schedule_place *p = &s->place[a->place], *q = &s->place[b->place];
    return a->tier == b->tier && a->back == b->back && p->bytes == q->bytes &&
           p->birth + period > s->origin + i + 1;
}

static void period_try(struct schedule *s)
{
    uint32_t last = s->recorded - 1, distance = 0;
    for (int tries = 0; tries < CHAIN * 2; tries++) {
        uint32_t back = s->record[last - distance].back;
        if (back == 0)
            return;
        distance += back;
        uint32_t same = 0;
        while (same < TRY_EVERY && same + distance <= last && same_use(s, last - same, distance))
            same++;
        if (same >= TRY_EVERY / 2) {
            s->period = distance;
            s->run = same;
            return;
        }
    }
}

/* An item whose life spans the beginning has two places in the period; from now
 * on it has one, that of its later self. */
static void period_close(struct schedule *s, struct schedule_use *use, uint32_t length)
{
    uint64_t begin = s->origin + s->recorded - length + 1; /* number of use[0] */
    for (uint32_t i = 0; i < length; i++) {
        uint64_t birth = s->place[use[i].place].birth;
        if (birth >= begin || birth + length < begin)
            continue;
        const struct schedule_use *born = &use[birth + length - begin];
        if (born->fresh)
            use[i].place = born->place;
    }
}

void schedule_period_look(struct schedule *s)
{
    uint32_t n = s->recorded;
    if (s->period && n > s->period && same_use(s, n - 1, s->period)) {
        s->run++;
    } else {
        s->period = 0;
        if (n < s->next_try || n < 2 || s->record[n - 1].back == 0)
            return;
        s->next_try = n + TRY_EVERY;
        period_try(s);
    }
    if (s->period == 0)
        return;
    uint32_t length = s->period * ((LEAST_PERIOD + s->period - 1) / s->period);
    if (s->run < length || n < 2 * length)
        return;
    period_close(s, s->record + n - length, length);
    struct schedule_line *l = schedule_line_of_record(s, n - length, length);
    if (!l)
        return;
    schedule_lines_order(s, l);
    s->then = NULL;
    s->credit = CREDIT_MOST;
    schedule_begin(s);
}
