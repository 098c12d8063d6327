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
 * May call: libc, terrace.h. */
#include "schedule.h"

#include <stdlib.h>
#include <string.h>

#include "terrace.h"

enum {
    NEAR = 32,            /* uses that one may be early or late */
    CONTEXT = 16,         /* uses compared to find one's way */
    ENOUGH_CONTEXT = 3,
    CHAIN = 8,            /* places in a line that are tried */
    QUALITY_MOST = 64,
    QUALITY_TRUSTED = 6,
    LEAST_PERIOD = 16,
    TRY_EVERY = 64,       /* uses, to find a period */
    BAD_STEPS = 4,        /* then recording pauses */
    STUDY_LEAST = 1 << 14, /* uses recorded without finding a period, */
    STUDY_PER_PLACE = 64,  /* then as many per place, before recording pauses */
    PLACES_MOST = 1 << 20,
    FAST_NS = 1000,       /* uses closer than that are not all timed */
    FAST_UNTIMED = 15,
};
/* schedule_use.fresh */
enum { PERSISTENT, FRESH, TRANSIENT };
static const uint32_t NONE = UINT32_MAX;
static const uint64_t CREDIT_MOST = 1 << 22;

/* ---- places ------------------------------------------------------------ */

static void forget_marks(struct schedule *s)
{
    for (uint32_t i = 1; i < s->places; i++)
        s->place[i].marked = false;
    for (int k = 0; k < SCHEDULE_LINES; k++)
        for (uint32_t i = 0; s->known[k] && i < s->known[k]->length; i++)
            s->place[s->known[k]->use[i].place].marked = true;
    for (uint32_t i = 0; i < s->recorded; i++)
        s->place[s->record[i].place].marked = true;
}

/* Frees the places of which no line speaks. */
static uint32_t places_sweep(struct schedule *s)
{
    uint32_t freed = 0;
    forget_marks(s);
    for (uint32_t i = 1; i < s->places; i++) {
        struct schedule_place *p = &s->place[i];
        if (!p->in_use || p->marked)
            continue;
        if (p->item) {
            p->item->place = 0;
            p->item->next = SCHEDULE_UNKNOWN;
        }
        *p = (struct schedule_place){.next_free = s->free_place};
        s->free_place = i;
        freed++;
    }
    if (freed)
        s->claims = 0; /* their places may be among them */
    return freed;
}

static bool places_grow(struct schedule *s)
{
    uint32_t room = s->places_room ? 2 * s->places_room : 256;
    if (room > PLACES_MOST)
        return false;
    struct schedule_place *more = realloc(s->place, room * sizeof *more);
    if (!more)
        return false;
    s->place = more;
    s->places_room = room;
    if (s->places == 0)
        s->place[s->places++] = (struct schedule_place){.in_use = true}; /* 0 is none */
    return true;
}

uint32_t schedule_place_take(struct schedule *s)
{
    if (!s->free_place && s->places == s->places_room) {
        uint32_t freed = s->total || s->recorded ? places_sweep(s) : 0;
        if (freed < s->places_room / 4 + 1 && !places_grow(s) && !freed)
            return 0;
    }
    uint32_t i = s->free_place;
    if (i)
        s->free_place = s->place[i].next_free;
    else
        i = s->places++;
    s->place[i] = (struct schedule_place){.in_use = true};
    return i;
}

static void place_settle(struct schedule *s, uint32_t i, struct schedule_item *item)
{
    struct schedule_place *p = &s->place[i];
    if (p->item && p->item != item) {
        p->item->place = 0;
        p->item->next = SCHEDULE_UNKNOWN;
    }
    p->item = item;
    p->key = item->key;
    p->bytes = item->bytes;
    item->place = i;
}

/* ---- lines ------------------------------------------------------------- */

static uint32_t hash_on(uint32_t hash, uint32_t place)
{
    hash = (hash ^ place) * 2654435761u;
    return hash ^ hash >> 15;
}

static uint32_t first_use(const struct schedule_line *l, uint32_t place)
{
    return l && place < l->firsts ? l->first[place] : NONE;
}

static void line_free(struct schedule *s, int k)
{
    struct schedule_line *l = s->known[k];
    s->total -= l->length;
    s->known[k] = NULL;
    for (unsigned i = 0; i < s->recents; i++)
        if (s->recent[i] == k)
            s->recent[i] = UINT8_MAX;
    if (s->line == l) {
        s->line = NULL;
        s->clean = false;
    }
    if (s->then == l)
        s->then = NULL;
    if (s->later == l)
        s->later = NULL;
    free(l->first);
    free(l);
}

/* The least useful line: the oldest of those that came once, else the oldest. */
static int line_worst(const struct schedule *s)
{
    int worst = -1;
    for (int k = 0; k < SCHEDULE_LINES; k++) {
        const struct schedule_line *l = s->known[k], *w = worst < 0 ? NULL : s->known[worst];
        if (l && (!w || (l->count > 1) < (w->count > 1) ||
                  ((l->count > 1) == (w->count > 1) && l->last < w->last)))
            worst = k;
    }
    return worst;
}

static int line_room(struct schedule *s, uint32_t length)
{
    for (;;) {
        int k = 0;
        while (k < SCHEDULE_LINES && s->known[k])
            k++;
        if (k < SCHEDULE_LINES && s->total + length <= SCHEDULE_MOST)
            return k;
        k = line_worst(s);
        if (k < 0)
            return -1; /* longer than all there may be */
        line_free(s, k);
    }
}

static void line_link(struct schedule_line *l)
{
    uint32_t hash = 0;
    memset(l->first, 0xff, l->firsts * sizeof *l->first);
    for (uint32_t i = l->length; i--;) {
        struct schedule_use *u = &l->use[i];
        u->next = l->first[u->place];
        l->first[u->place] = i;
    }
    for (uint32_t i = 0; i < l->length; i++)
        l->use[i].hash = hash = hash_on(hash, l->use[i].place);
}

struct schedule_line *schedule_line_make(struct schedule *s, const struct schedule_use *use,
                                         uint32_t length)
{
    struct schedule_line *l = malloc(sizeof *l + length * sizeof *use);
    uint32_t *first = malloc(s->places * sizeof *first);
    int k = l && first ? line_room(s, length) : -1;
    if (k < 0) {
        free(l);
        free(first);
        return NULL;
    }
    *l = (struct schedule_line){.length = length, .firsts = s->places, .first = first,
                                .index = (uint8_t)k, .last = s->steps};
    memcpy(l->use, use, length * sizeof *use);
    for (uint32_t i = 0; i < length; i++)
        if (use[i].fresh && !s->place[use[i].place].item)
            l->use[i].fresh = TRANSIENT;
    l->ns = use[length - 1].at;
    line_link(l);
    s->known[k] = l;
    s->total += length;
    return l;
}

/* ---- when an item is used next ------------------------------------------ */

/* Whether the use will be that of a new item in the place. Where the new one
 * outlived the step, that cannot be told before the line has come twice: all
 * items are new to the first. */
static bool of_another(const struct schedule_line *l, uint32_t i)
{
    return l->use[i].fresh == TRANSIENT || (l->use[i].fresh && l->count > 1);
}

static void expect_at(const struct schedule *s, struct schedule_item *item,
                      const struct schedule_line *l, uint32_t i, uint64_t base)
{
    item->dies = of_another(l, i);
    item->next = base + i;
    if (item->dies) {
        uint64_t end = item->last + 1 + s->place[item->place].life;
        item->next = end < s->now ? s->now : end;
    }
}

/* The next use is not in what is left of this line. */
static void expect_after(const struct schedule *s, struct schedule_item *item)
{
    const struct schedule_line *coming[] = {s->then, s->later};
    uint64_t base = s->base + s->line->length, again = s->base + s->line->interval;
    uint32_t i;
    for (int k = 0; k < 2; k++) {
        i = first_use(coming[k], item->place);
        if (i != NONE) {
            expect_at(s, item, coming[k], i, base);
            return;
        }
        base += coming[k] ? coming[k]->length : 0;
    }
    i = first_use(s->line, item->place);
    if (i != NONE) { /* when there is a step like this again, not before those */
        expect_at(s, item, s->line, i, again > base ? again : base);
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
        expect_after(s, item);
    }
}

/* What is used in the step after the next, and not before, can be told exactly
 * from now on. */
static void expect_later(struct schedule *s)
{
    const struct schedule_line *l = s->later;
    if (!l || !s->line || l == s->line || l == s->then)
        return;
    uint64_t base = s->base + s->line->length + (s->then ? s->then->length : 0);
    for (uint32_t i = 0; i < l->length; i++) {
        uint32_t place = l->use[i].place;
        if (l->first[place] == i && s->place[place].item && first_use(s->line, place) == NONE &&
            first_use(s->then, place) == NONE)
            expect_at(s, s->place[place].item, l, i, base);
    }
    s->epoch++;
}

/* Computes all items' next uses anew. */
static void retime(struct schedule *s)
{
    const struct schedule_line *l = s->line;
    s->epoch++;
    for (uint32_t i = 1; i < s->places; i++) {
        struct schedule_item *item = s->place[i].item;
        if (item && l)
            expect_after(s, item);
        else if (item)
            item->next = SCHEDULE_UNKNOWN;
    }
    for (uint32_t i = l ? l->length : 0; i-- > s->at;) {
        struct schedule_item *item = s->place[l->use[i].place].item;
        if (item)
            expect_at(s, item, l, i, s->base);
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

/* Says which lines follow the present one. */
static void predict_following(struct schedule *s)
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
    predict_following(s);
    if (s->line != then || s->then != later)
        retime(s);
    else
        expect_later(s);
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

static void record(struct schedule *s, const struct schedule_use *use)
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

/* What went as expected so far becomes a record. */
static void record_begin(struct schedule *s)
{
    if (!s->clean)
        return;
    s->clean = false;
    s->hash = 0;
    if (record_room(s, s->at + 1))
        for (uint32_t i = 0; i < s->at; i++)
            record(s, &s->line->use[i]);
    else
        s->recording = false;
}

static uint32_t uses_so_far(const struct schedule *s)
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

static struct schedule_line *line_of_record(struct schedule *s, uint32_t from, uint32_t length)
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

static void lines_order(struct schedule *s, struct schedule_line *l)
{
    if (s->recents == SCHEDULE_RECENT)
        memmove(s->recent, s->recent + 1, --s->recents);
    s->recent[s->recents++] = l->index;
    l->count++;
    l->last = ++s->steps;
    l->interval = l->ended && s->now > l->ended ? s->now - l->ended : 0;
    l->ended = s->now;
}

static void rest(struct schedule *s, uint64_t time)
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

static void step_end(struct schedule *s)
{
    struct schedule_line *l = s->line;
    uint32_t uses = uses_so_far(s);
    bool whole = s->clean && s->at == l->length;
    uint64_t end = l ? s->base + l->length : s->now;
    if (uses == 0)
        return;
    if (!whole) {
        record_begin(s);
        l = line_of_record(s, 0, s->recorded);
        s->then = NULL; /* what was predicted for after this step is void */
    }
    s->credit += 8 * (uint64_t)uses;
    if (s->credit > CREDIT_MOST)
        s->credit = CREDIT_MOST;
    s->now = end > s->now ? end : s->now;
    if (l) {
        l->ns = s->elapsed;
        lines_order(s, l);
    }
    uint64_t pause = fatigue(s, uses);
    if (pause && s->stepped) {
        rest(s, pause);
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
    step_end(s);
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
        place_settle(s, u->place, item);
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
        record(s, u);
    if (s->at == s->line->length && !s->stepped)
        step_end(s);
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
    predict_following(s);
    retime(s);
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
    record_begin(s);
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
    record(s, &use);
    s->now = now;
    return true;
}

/* 2: another line that began like this step. */
static bool other_line(struct schedule *s, const struct schedule_item *item)
{
    uint32_t n = uses_so_far(s), hash = s->hash;
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
        struct schedule_line *l = head < LEAST_PERIOD ? NULL : line_of_record(s, 0, head);
        if (l && l->index == index && l->count == 0)
            return false; /* that line had to make room for it */
        if (l)
            lines_order(s, l);
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

/* Looks whether the record has repeated itself; then that is a step. */
static void period_look(struct schedule *s)
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
    struct schedule_line *l = line_of_record(s, n - length, length);
    if (!l)
        return;
    lines_order(s, l);
    s->then = NULL;
    s->credit = CREDIT_MOST;
    schedule_begin(s);
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
            place_settle(s, place, item);
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
        record(s, &use);
    else
        s->recording = false;
    if (!s->recording) /* too long: there is no step here to be learned */
        s->overflowed |= s->recorded == SCHEDULE_STEP_MOST;
    s->stepped &= !s->overflowed;
    if (s->stepped)
        return;
    if (s->recording && s->recorded < STUDY_LEAST + STUDY_PER_PLACE * (uint64_t)s->places)
        period_look(s);
    else
        rest(s, 2 * (uint64_t)s->recorded << (s->bad < 6 ? s->bad++ : 6));
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
        record_begin(s);
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

/* ---- items -------------------------------------------------------------- */

static uint64_t mix(uint64_t h)
{
    h = (h ^ h >> 32) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

static uint64_t key_of(struct schedule *s, const char *name, uint64_t bytes)
{
    uint64_t h = mix(bytes + 1);
    if (!name || !*name)
        return mix(h ^ ++s->created);
    for (; *name; name++)
        h = mix(h + (unsigned char)*name);
    return h;
}

/* The first loaded place with the key that nobody has claimed. */
static uint32_t claim(struct schedule *s, uint64_t key)
{
    uint32_t low = 0, high = s->claims;
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (s->place[s->claim[middle]].key < key)
            low = middle + 1;
        else
            high = middle;
    }
    for (; low < s->claims && s->place[s->claim[low]].key == key; low++)
        if (!s->place[s->claim[low]].claimed) {
            s->place[s->claim[low]].claimed = true;
            return s->claim[low];
        }
    return 0;
}

void schedule_created(struct schedule *s, struct schedule_item *item, const char *name,
                      uint64_t bytes)
{
    *item = (struct schedule_item){.next = SCHEDULE_UNKNOWN, .bytes = bytes,
                                   .key = key_of(s, name, bytes)};
    uint32_t place = s->claims ? claim(s, item->key) : 0;
    if (!place)
        return;
    place_settle(s, place, item);
    uint32_t i = first_use(s->line, place);
    if (i != NONE && i >= s->at)
        expect_at(s, item, s->line, i, s->base);
    else if (s->line)
        expect_after(s, item);
}

void schedule_gone(struct schedule *s, struct schedule_item *item)
{
    if (s->latest == item)
        s->latest = NULL;
    if (item->place) {
        struct schedule_place *p = &s->place[item->place];
        p->item = NULL;
        p->life = s->now > item->last ? s->now - item->last - 1 : 0;
    }
    item->place = 0;
    item->next = SCHEDULE_UNKNOWN;
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
            line_free(s, k);
    free(s->record);
    free(s->place);
    free(s->claim);
    *s = (struct schedule){0};
}
