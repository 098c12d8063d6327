/* schedule_inside.h - what the files of the learned schedule share.
 * May call: schedule.h. */
#ifndef TERRACE_LIB_SCHEDULE_INSIDE_H
#define TERRACE_LIB_SCHEDULE_INSIDE_H

#include "schedule.h"

enum {
    CONTEXT = 16,         /* uses compared to find one's way */
    CHAIN = 8,            /* places in a line that are tried */
    LEAST_PERIOD = 16,
    TRY_EVERY = 64,       /* uses, to find a period */
};
/* schedule_use.fresh */
enum { PERSISTENT, FRESH, TRANSIENT };
static const uint32_t NONE = UINT32_MAX;
static const uint64_t CREDIT_MOST = 1 << 22;

static inline uint32_t hash_on(uint32_t hash, uint32_t place)
{
    hash = (hash ^ place) * 2654435761u;
    return hash ^ hash >> 15;
}

static inline uint32_t first_use(const struct schedule_line *l, uint32_t place)
{
    return l && place < l->firsts ? l->first[place] : NONE;
}

/* ---- schedule_lines.c ---- */

/* The place is the item's from now on. */
void schedule_place_settle(struct schedule *s, uint32_t i, struct schedule_item *item);
void schedule_line_free(struct schedule *s, int k);

/* ---- schedule.c ---- */

/* The item's next use is the one at `i` of a line that starts at `base`. */
void schedule_expect_at(const struct schedule *s, struct schedule_item *item, const struct schedule_line *l,
                        uint32_t i, uint64_t base);
/* The next use is not in what is left of this line. */
void schedule_expect_after(const struct schedule *s, struct schedule_item *item);
/* What is used in the step after the next, and not before, can be told exactly
 * from now on. */
void schedule_expect_later(struct schedule *s);
/* Computes all items' next uses anew. */
void schedule_retime(struct schedule *s);

/* ---- schedule_steps.c ---- */

/* Says which lines follow the present one. */
void schedule_predict(struct schedule *s);
void schedule_record(struct schedule *s, const struct schedule_use *use);
/* What went as expected so far becomes a record. */
void schedule_record_begin(struct schedule *s);
uint32_t schedule_uses_so_far(const struct schedule *s);
/* The line that uses recorded from `from` on are, or become; NULL: none. */
struct schedule_line *schedule_line_of_record(struct schedule *s, uint32_t from, uint32_t length);
/* The line has come. */
void schedule_lines_order(struct schedule *s, struct schedule_line *l);
/* Lets steps, or uses, go by. */
void schedule_rest(struct schedule *s, uint64_t time);
void schedule_step_end(struct schedule *s);
/* Looks whether the record has repeated itself; then that is a step. */
void schedule_period_look(struct schedule *s);

#endif
