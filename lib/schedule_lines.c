/* schedule_lines.c - the places that items have in learned steps, and these steps.
 *
 * May call: libc, schedule_inside.h. */
#include <stdlib.h>
#include <string.h>

#include "schedule_inside.h"

enum { PLACES_MOST = 1 << 20 };

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

void schedule_place_settle(struct schedule *s, uint32_t i, struct schedule_item *item)
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

void schedule_line_free(struct schedule *s, int k)
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
        schedule_line_free(s, k);
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
    schedule_place_settle(s, place, item);
    uint32_t i = first_use(s->line, place);
    if (i != NONE && i >= s->at)
        schedule_expect_at(s, item, s->line, i, s->base);
    else if (s->line)
        schedule_expect_after(s, item);
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
