/* schedule_file.c - what was learned, as bytes for the next process.
 *
 * A header, the order of the last steps, the places and the lines, and a
 * checksum of all that; numbers are little-endian. Nothing is taken over before
 * every number has been found to be within its bounds, whatever the checksum
 * says. Places are recognised by name and size or, without a name, by the order
 * of creation and size; those of items that are created in every step are not
 * claimed when an item is created, but by position, as ever.
 *
 * May call: schedule.h, xxhash, libc. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "schedule.h"

enum { FORMAT = 1, MAGIC = 16, TRANSIENT_USE = 2 };
static const char magic[MAGIC] = "terrace schedul";
static const uint64_t LONGEST = (uint64_t)1 << 60; /* ns, uses: their sums do not overflow */

/* ---- bytes -------------------------------------------------------------- */

struct out {
    unsigned char *data;
    size_t used, room;
    bool failed;
};

static void put(struct out *o, uint64_t v, unsigned bytes)
{
    if (o->used + bytes > o->room) {
        size_t room = o->room ? 2 * o->room : 4096;
        unsigned char *more = o->failed ? NULL : realloc(o->data, room);
        if (!more) {
            o->failed = true;
            return;
        }
        o->data = more;
        o->room = room;
    }
    for (unsigned i = 0; i < bytes; i++)
        o->data[o->used++] = (unsigned char)(v >> 8 * i);
}

struct in {
    const unsigned char *data;
    size_t left;
    bool bad; /* something was missing or out of bounds */
};

/* A number up to `most`. */
static uint64_t get(struct in *in, unsigned bytes, uint64_t most)
{
    uint64_t v = 0;
    if (in->bad || in->left < bytes) {
        in->bad = true;
        return 0;
    }
    for (unsigned i = 0; i < bytes; i++)
        v |= (uint64_t)in->data[i] << 8 * i;
    in->data += bytes;
    in->left -= bytes;
    in->bad |= v > most;
    return in->bad ? 0 : v;
}

/* ---- saving ------------------------------------------------------------- */

static void put_line(struct out *o, const struct schedule_line *l, const uint32_t *number)
{
    put(o, l->length, 4);
    put(o, l->count, 8);
    put(o, l->last, 8);
    put(o, l->ns, 8);
    for (uint32_t i = 0; i < l->length; i++) {
        const struct schedule_use *u = &l->use[i];
        put(o, u->at, 8);
        put(o, number[u->place], 4);
        put(o, u->tier, 1);
        put(o, u->mode, 1);
        put(o, u->fresh, 1);
    }
}

/* Numbers the places of which lines speak, from 1 on; their count. */
static uint32_t places_number(const struct schedule *s, uint32_t *number, uint32_t *order)
{
    uint32_t n = 0;
    for (int k = 0; k < SCHEDULE_LINES; k++)
        for (uint32_t i = 0; s->known[k] && i < s->known[k]->length; i++) {
            uint32_t place = s->known[k]->use[i].place;
            if (number[place])
                continue;
            order[n] = place;
            number[place] = ++n;
        }
    return n;
}

static void put_all(struct out *o, const struct schedule *s, uint32_t *number, uint32_t *order)
{
    uint32_t places = places_number(s, number, order), lines = 0;
    uint8_t index[UINT8_MAX + 1];
    memset(index, 0xff, sizeof index);
    for (int k = 0; k < SCHEDULE_LINES; k++)
        if (s->known[k])
            index[k] = (uint8_t)lines++;
    for (int i = 0; i < MAGIC; i++)
        put(o, (unsigned char)magic[i], 1);
    put(o, FORMAT, 4);
    put(o, s->stepped, 1);
    put(o, s->steps, 8);
    put(o, s->recents, 4);
    for (unsigned i = 0; i < s->recents; i++)
        put(o, index[s->recent[i]], 1);
    put(o, places, 4);
    for (uint32_t i = 0; i < places; i++) {
        const struct schedule_place *p = &s->place[order[i]];
        put(o, p->key, 8);
        put(o, p->bytes, 8);
        put(o, p->life, 8);
    }
    put(o, lines, 4);
    for (int k = 0; k < SCHEDULE_LINES; k++)
        if (s->known[k])
            put_line(o, s->known[k], number);
    put(o, XXH3_64bits(o->data, o->used), 8);
}

void *schedule_save(const struct schedule *s, size_t *bytes)
{
    struct out o = {0};
    size_t places = s->places ? s->places : 1;
    uint32_t *number = calloc(places, sizeof *number), *order = malloc(places * sizeof *order);
    if (number && order)
        put_all(&o, s, number, order);
    if (!number || !order || o.failed) {
        free(o.data);
        o.data = NULL;
    }
    free(number);
    free(order);
    *bytes = o.data ? o.used : 0;
    return o.data;
}

/* ---- loading ------------------------------------------------------------ */

static void get_places(struct in *in, struct schedule *s)
{
    uint64_t n = get(in, 4, SCHEDULE_MOST);
    for (uint64_t i = 0; i < n && !in->bad; i++) {
        uint32_t place = schedule_place_take(s);
        if (place != i + 1) {
            in->bad = true;
            return;
        }
        struct schedule_place *p = &s->place[place];
        p->key = get(in, 8, UINT64_MAX);
        p->bytes = get(in, 8, UINT64_MAX);
        p->life = get(in, 8, LONGEST);
        p->claimed = true; /* unless a line says otherwise */
    }
}

static void get_line(struct in *in, struct schedule *s, unsigned index)
{
    enum { USE_BYTES = 15 };
    uint32_t length = (uint32_t)get(in, 4, SCHEDULE_STEP_MOST);
    uint64_t count = get(in, 8, LONGEST), last = get(in, 8, LONGEST), ns = get(in, 8, LONGEST);
    struct schedule_use *use = NULL;
    struct schedule_line *l = NULL;
    if (length && !in->bad && in->left / USE_BYTES >= length)
        use = calloc(length, sizeof *use);
    for (uint32_t i = 0; use && i < length; i++) {
        use[i].at = get(in, 8, LONGEST);
        use[i].place = (uint32_t)get(in, 4, s->places - 1);
        use[i].tier = (uint8_t)get(in, 1, UINT8_MAX);
        use[i].mode = (uint8_t)get(in, 1, 7);
        use[i].fresh = (uint8_t)get(in, 1, TRANSIENT_USE);
        in->bad |= use[i].place == 0;
    }
    if (use && !in->bad && s->total + length <= SCHEDULE_MOST)
        l = schedule_line_make(s, use, length);
    in->bad |= !l || l->index != index;
    if (!in->bad) {
        for (uint32_t i = 0; i < length; i++) {
            l->use[i].fresh = use[i].fresh; /* no item is there yet, which says nothing */
            if (use[i].fresh != TRANSIENT_USE && l->first[use[i].place] == i)
                s->place[use[i].place].claimed = false;
        }
        l->count = count;
        l->last = last;
        l->ns = ns;
    }
    free(use);
}

static void get_all(struct in *in, struct schedule *s)
{
    s->stepped = get(in, 1, 1);
    s->steps = get(in, 8, LONGEST);
    s->recents = (unsigned)get(in, 4, SCHEDULE_RECENT);
    for (unsigned i = 0; i < s->recents; i++)
        s->recent[i] = (uint8_t)get(in, 1, UINT8_MAX);
    get_places(in, s);
    uint64_t lines = get(in, 4, SCHEDULE_LINES);
    for (unsigned k = 0; k < lines && !in->bad; k++)
        get_line(in, s, k);
    for (unsigned i = 0; i < s->recents; i++)
        in->bad |= s->recent[i] != UINT8_MAX && s->recent[i] >= lines;
    in->bad |= in->left != 0;
}

struct claim {
    uint64_t key;
    uint32_t place;
};

static int by_key(const void *a, const void *b)
{
    const struct claim *x = a, *y = b;
    if (x->key != y->key)
        return x->key < y->key ? -1 : 1;
    return x->place < y->place ? -1 : x->place > y->place;
}

static bool claims_make(struct schedule *s)
{
    struct claim *order = malloc((s->places + 1) * sizeof *order);
    s->claim = malloc((s->places + 1) * sizeof *s->claim);
    if (order && s->claim) {
        for (uint32_t i = 1; i < s->places; i++)
            if (!s->place[i].claimed)
                order[s->claims++] = (struct claim){s->place[i].key, i};
        qsort(order, s->claims, sizeof *order, by_key);
        for (uint32_t i = 0; i < s->claims; i++)
            s->claim[i] = order[i].place;
    }
    free(order);
    return order && s->claim;
}

bool schedule_load(struct schedule *s, const void *data, size_t bytes, char *why, size_t len)
{
    enum { HEADER = MAGIC + 4, SUM = 8 };
    struct in in = {.data = data, .left = bytes};
    struct in version = {.data = (const unsigned char *)data + MAGIC, .left = 4};
    if (bytes < HEADER + SUM || memcmp(data, magic, MAGIC) != 0) {
        snprintf(why, len, "it is not a schedule that terrace has saved");
        return false;
    }
    uint64_t format = get(&version, 4, UINT32_MAX);
    if (format != FORMAT) {
        snprintf(why, len, "its format is %u, this build knows %u", (unsigned)format, (unsigned)FORMAT);
        return false;
    }
    struct in sum = {.data = in.data + bytes - SUM, .left = SUM};
    in.data += HEADER;
    in.left -= HEADER + SUM;
    struct schedule loaded;
    schedule_init(&loaded);
    bool whole = get(&sum, SUM, UINT64_MAX) == XXH3_64bits(data, bytes - SUM);
    if (whole)
        get_all(&in, &loaded);
    if (!whole || in.bad || !claims_make(&loaded)) {
        snprintf(why, len, "it is damaged");
        schedule_free(&loaded);
        return false;
    }
    schedule_free(s);
    *s = loaded;
    schedule_begin(s);
    return true;
}
