/* schedule.h - what a program will use next, learned from what it has used.
 *
 * The one who calls holds the lock that protects the schedule and its items.
 * May call: libc, terrace.h (the modes). No I/O, no locks, no clock. */
#ifndef TERRACE_LIB_SCHEDULE_H
#define TERRACE_LIB_SCHEDULE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Virtual time counts expected uses; it never goes back. */
#define SCHEDULE_UNKNOWN UINT64_MAX

enum {
    SCHEDULE_LINES = 16,          /* steps of different kinds that are kept apart */
    SCHEDULE_STEP_MOST = 1 << 18, /* uses in a step; longer ones are not learned */
    SCHEDULE_MOST = 1 << 20,      /* uses in all kept steps together */
    SCHEDULE_RECENT = 64,         /* steps whose order is remembered */
};

/* What is used: embedded in what it stands for, and zero before
 * schedule_created(). */
struct schedule_item {
    uint64_t next;  /* virtual time of the next use expected, or SCHEDULE_UNKNOWN */
    uint64_t last;  /* virtual time of the last use */
    uint64_t key;   /* the same in another process that runs the same program */
    uint64_t bytes;
    uint32_t place; /* its identity in the learned steps; 0: none yet */
    bool dies;      /* `next` is when it will be destroyed, not a use */
    bool born;      /* has been used */
};

/* One use in a step. */
struct schedule_use {
    uint64_t at;    /* ns since the step's start, by the caller's clock */
    uint32_t place; /* of the item used */
    uint32_t next;  /* the place's next use in the step; UINT32_MAX: none */
    uint32_t hash;  /* of the places up to here */
    uint32_t back;  /* being recorded: uses since the place's previous one, 0: none */
    uint8_t tier, mode;
    uint8_t fresh;  /* an item's first use, last time: see schedule.c */
};
_Static_assert(sizeof(struct schedule_use) <= 32, "a use is to be remembered in 32 bytes");

struct schedule_line;
struct schedule_place;

struct schedule {
    /* For others to read. */
    uint64_t now;    /* virtual time: of the next use expected */
    uint32_t epoch;  /* goes up when items' `next` changed other than by their use */
    bool trusted;    /* recent uses were as expected */
    uint8_t untimed; /* uses to come for which no time is needed */
    /* The step under way. */
    struct schedule_line *line;  /* that it is expected to be; NULL: unknown */
    struct schedule_line *then, *later; /* that are expected to follow */
    uint32_t at;     /* in the line, of the next use expected */
    uint64_t base;   /* virtual time of the line's start */
    bool clean;      /* all of it so far is as in the line, and not recorded */
    bool recording;  /* or as it is recorded */
    struct schedule_use *record;
    uint32_t recorded, room;
    uint64_t origin; /* the number of the first one recorded, of all that ever were */
    uint32_t hash;   /* of the places recorded */
    uint32_t hits;   /* uses that were expected */
    const struct schedule_item *latest;
    uint64_t start, elapsed; /* times: of the step's start; since then */
    uint32_t since;  /* uses since a time was given */
    /* How well it goes. */
    int quality;
    uint32_t strays; /* unexpected uses in a row */
    uint64_t credit; /* work that may be spent on starting over */
    unsigned bad;    /* steps in a row that went unexpectedly */
    uint64_t sleep;  /* steps (or uses, where there are none) that are let go by */
    /* Period detection, for programs that mark no steps. */
    bool stepped, overflowed;
    uint32_t period, run, next_try;
    /* What is known. */
    struct schedule_line *known[SCHEDULE_LINES];
    uint64_t total;  /* uses in them */
    uint64_t steps;
    uint8_t recent[SCHEDULE_RECENT]; /* lines by index, the last step last */
    unsigned recents;
    struct schedule_place *place;
    uint32_t places, places_room, free_place;
    uint32_t *claim; /* places of a loaded schedule, by key */
    uint32_t claims;
    uint64_t created; /* items without a name so far */
};

void schedule_init(struct schedule *s);
void schedule_free(struct schedule *s);

/* An item comes into being. name may be NULL; then it is known by the order of
 * creation to other processes. */
void schedule_created(struct schedule *s, struct schedule_item *item, const char *name,
                      uint64_t bytes);
/* The item is going away. */
void schedule_gone(struct schedule *s, struct schedule_item *item);

/* Whether the next use should come with its time. */
static inline bool schedule_wants_time(const struct schedule *s)
{
    return s->untimed == 0;
}
/* The item is used. ns: the time on a clock that stands still while bytes are
 * waited for; 0: not known. Constant time, but for a pass over the step after a
 * surprise, of which there are as many as pay off. */
void schedule_use(struct schedule *s, struct schedule_item *item, unsigned tier, unsigned mode,
                  uint64_t ns);
/* A step has ended. */
void schedule_step(struct schedule *s, uint64_t ns);

/* How the item will be used next: a mode, or 0 where that is not known or it
 * will be destroyed. */
unsigned schedule_next_mode(const struct schedule *s, const struct schedule_item *item);
/* Computing time until then, as far as can be said; 0 for what is overdue. */
uint64_t schedule_ns_until(const struct schedule *s, uint64_t when);

/* The uses to come, in order, from now on to the end of the step after next.
 * Any call that changes the schedule ends an enumeration. */
struct schedule_cursor {
    const struct schedule *schedule;
    const struct schedule_line *line;
    uint32_t at;
    unsigned ahead;  /* lines after the present one */
    uint64_t base, before; /* virtual time, ns: from now to the line's start */
};
struct schedule_coming {
    struct schedule_item *item;
    uint64_t when; /* virtual time */
    uint64_t ns;   /* from now */
    unsigned tier, mode;
};
void schedule_coming(const struct schedule *s, struct schedule_cursor *c);
/* False at the end, or where nothing is known. Items not yet created are left out. */
bool schedule_coming_next(struct schedule_cursor *c, struct schedule_coming *out);

/* ---- schedule_file.c ---- */

/* All that was learned, as bytes to free(); NULL: no memory. */
void *schedule_save(const struct schedule *s, size_t *bytes);
/* Takes it over, into a schedule that has not been used yet. False where it is
 * damaged or foreign: then nothing has changed and `why` says what is wrong. */
bool schedule_load(struct schedule *s, const void *data, size_t bytes, char *why, size_t len);

/* ---- shared by the two files ---- */

/* A kind of step. */
struct schedule_line {
    uint32_t length;
    uint32_t firsts;       /* entries in `first` */
    uint32_t *first;       /* by place: its first use, or UINT32_MAX */
    uint64_t count, last;  /* how often it has come; in which step last */
    uint64_t ns;           /* how long it takes */
    uint64_t ended, interval; /* virtual time: of its last end; between its last two */
    uint8_t index;         /* in schedule.known */
    struct schedule_use use[];
};

/* An item's identity: that of an item, or of one that is gone until another
 * comes in its place. */
struct schedule_place {
    struct schedule_item *item; /* NULL: gone */
    uint64_t key, bytes;
    uint64_t life;         /* uses from its last one until it was destroyed */
    uint64_t birth, latest; /* numbers of its first and latest recorded use */
    uint32_t next_free;
    bool in_use, marked;
    bool claimed;          /* loaded, and not to be claimed any more */
};

uint32_t schedule_place_take(struct schedule *s);
/* Makes a line of uses, with links; NULL: no memory. */
struct schedule_line *schedule_line_make(struct schedule *s, const struct schedule_use *use,
                                         uint32_t length);
/* Begins the step that is expected next. */
void schedule_begin(struct schedule *s);

#endif
