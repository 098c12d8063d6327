/* test_schedule.c - what is used next: learning, recognising, losing and finding
 * the way, and what of it survives a process. */
#include <criterion/criterion.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "schedule.h"
#include "terrace.h"

enum { MOST = 4000, READ = TERRACE_READ, CHANGE = TERRACE_READ | TERRACE_WRITE };

static struct schedule s;
static struct schedule_item item[MOST];
static uint64_t now; /* ns */

static void open_with(int items)
{
    schedule_init(&s);
    now = 1000000;
    for (int i = 0; i < items; i++)
        schedule_created(&s, &item[i], NULL, 4096 + (uint64_t)(i % 3) * 4096);
}

static void end(void)
{
    schedule_free(&s);
}

/* Uses it 2000 ns after the last; whether that was foreseen. */
static bool use_as(int i, unsigned mode)
{
    bool foreseen = s.line && item[i].next == s.now && !item[i].dies;
    now += 2000;
    schedule_use(&s, &item[i], 0, mode, now);
    return foreseen;
}

static bool use(int i)
{
    return use_as(i, READ);
}

/* Uses some one after the other; how many of them were foreseen. */
static int uses(int from, int to)
{
    int n = 0;
    for (int i = from; i < to; i++)
        n += use(i);
    return n;
}

static int uses_back(int from, int to)
{
    int n = 0;
    for (int i = to; i-- > from;)
        n += use(i);
    return n;
}

static void step(void)
{
    schedule_step(&s, now);
}

static uint64_t random_state = 42;
static int draw(int below)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return (int)(random_state % (uint64_t)below);
}

/* Items and places agree, and limits hold. */
static void check_whole(int items)
{
    uint64_t total = 0;
    for (uint32_t p = 1; p < s.places; p++)
        if (s.place[p].item)
            cr_assert_eq(s.place[p].item->place, p);
    for (int i = 0; i < items; i++)
        if (item[i].place)
            cr_assert_eq(s.place[item[i].place].item, &item[i]);
    for (int k = 0; k < SCHEDULE_LINES; k++) {
        const struct schedule_line *l = s.known[k];
        for (uint32_t i = 0; l && i < l->length; i++) {
            cr_assert(s.place[l->use[i].place].in_use);
            cr_assert(l->use[i].next == UINT32_MAX || (l->use[i].next > i && l->use[i].next < l->length));
        }
        total += l ? l->length : 0;
    }
    cr_assert_eq(total, s.total);
    cr_assert_leq(total, SCHEDULE_MOST);
    cr_assert_leq(s.recorded, SCHEDULE_STEP_MOST);
    cr_assert(!s.line || s.at <= s.line->length);
}

/* ---- learning ---------------------------------------------------------- */

Test(schedule, one_step_predicts_the_next)
{
    open_with(100);
    cr_assert_eq(uses(0, 100) + uses_back(0, 50), 0);
    step();
    cr_assert_eq(uses(0, 100) + uses_back(0, 50), 150);
    step();
    cr_assert(s.trusted);
    cr_assert_eq(uses(0, 100), 100);
    cr_assert_eq(item[49].next, s.now, "the next is its second use in the step");
    cr_assert_eq(item[70].next, s.now + 50 + 70, "and after its only one, that in the next step");
    cr_assert_eq(uses_back(0, 50), 50);
    end();
}

Test(schedule, how_and_when_it_will_be_used_is_foretold)
{
    open_with(10);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 10; i++)
            use_as(i, i % 2 ? CHANGE : TERRACE_OVERWRITE);
        uses(0, 10);
        step();
    }
    for (int i = 0; i < 5; i++)
        use_as(i, i % 2 ? CHANGE : TERRACE_OVERWRITE);
    cr_assert_eq(schedule_next_mode(&s, &item[4]), READ);
    cr_assert_eq(schedule_next_mode(&s, &item[5]), CHANGE);
    cr_assert_eq(schedule_next_mode(&s, &item[6]), TERRACE_OVERWRITE);
    cr_assert_eq(schedule_ns_until(&s, item[5].next), 2000);
    cr_assert_eq(schedule_ns_until(&s, item[9].next), 10000);
    cr_assert_eq(schedule_ns_until(&s, item[4].next), 20000);
    cr_assert_eq(schedule_ns_until(&s, SCHEDULE_UNKNOWN), UINT64_MAX);
    end();
}

Test(schedule, the_same_item_twice_in_a_row_is_one_use)
{
    open_with(20);
    for (int k = 0; k < 3; k++) {
        for (int i = 0; i < 20; i++)
            for (int n = 0; n <= draw(4); n++)
                use_as(i, n ? CHANGE : READ);
        use_as(3, TERRACE_OVERWRITE);
        use_as(3, READ);
        use_as(5, READ); /* READ, then OVERWRITE: its bytes are needed */
        use_as(5, TERRACE_OVERWRITE);
        step();
    }
    cr_assert_eq(s.line->length, 22);
    cr_assert_eq(s.line->use[20].mode, TERRACE_OVERWRITE);
    cr_assert_eq(s.line->use[21].mode, CHANGE);
    end();
}

Test(schedule, a_period_is_found_where_no_step_is_marked)
{
    static const int lengths[] = {1, 3, 7, 20, 100, 1000};
    for (size_t k = 0; k < sizeof lengths / sizeof lengths[0]; k++) {
        int n = lengths[k], foreseen = 0;
        if (n == 1)
            continue; /* one item over and over is no use at all */
        open_with(n + 5);
        uses(n, n + 5); /* what is only done at the beginning */
        for (int round = 0; round < 100 / n + 4; round++)
            foreseen = uses(0, n);
        cr_assert_eq(foreseen, n, "period %d", n);
        end();
    }
}

Test(schedule, forward_and_backward_make_one_period)
{
    int foreseen = 0;
    open_with(200);
    for (int round = 0; round < 5; round++)
        foreseen = uses(0, 200) + uses_back(0, 200);
    /* the turning points are two uses in a row, which count as one */
    cr_assert_geq(foreseen, 398);
    cr_assert(s.trusted);
    end();
}

Test(schedule, a_program_that_marks_steps_late_is_followed_all_the_same)
{
    open_with(50);
    for (int k = 0; k < 6; k++)
        uses(0, 50);
    for (int k = 0; k < 3; k++) {
        uses(0, 50);
        step();
    }
    cr_assert_eq(uses(0, 50), 50);
    end();
}

/* ---- steps of several kinds ---------------------------------------------- */

Test(schedule, kinds_of_steps_are_kept_apart_and_recognised_at_once)
{
    open_with(300);
    for (int k = 0; k < 3; k++) {
        uses(0, 200);
        step();
    }
    uses(200, 300); /* an evaluation */
    step();
    uses(0, 200);
    step();
    for (int k = 0; k < 6; k++) { /* now and then, unforeseeable */
        if (draw(2)) {
            use(200);
            cr_assert_eq(uses(201, 300), 99);
        } else {
            use(0);
            cr_assert_eq(uses(1, 200), 199);
        }
        step();
    }
    end();
}

Test(schedule, the_order_of_kinds_is_learned)
{
    open_with(300);
    for (int k = 0; k < 16; k++) {
        int foreseen = k % 4 == 3 ? uses(150, 300) : uses(0, 200);
        step();
        if (k >= 8)
            cr_assert_eq(foreseen, k % 4 == 3 ? 150 : 200, "step %d", k);
    }
    uses(0, 200), step(), uses(0, 200), step();
    uses(0, 100);
    cr_assert_eq(item[60].next, s.now + 100 + 150 + 60, "it is not used in the evaluation to come");
    cr_assert_eq(item[10].next, item[60].next - 50);
    cr_assert_eq(item[160].next, s.now + 60);
    end();
}

Test(schedule, micro_steps_are_told_from_steps_without_marks)
{
    int foreseen = 0;
    open_with(300);
    for (int k = 0; k < 12; k++) {
        foreseen = 0;
        for (int micro = 0; micro < 4; micro++)
            foreseen += uses(0, 100);
        foreseen += uses(100, 300);
    }
    cr_assert_geq(foreseen, 590);
    end();
}

Test(schedule, a_step_that_goes_on_longer_is_recognised_by_its_beginning)
{
    open_with(300);
    for (int k = 0; k < 2; k++) {
        uses(0, 100);
        step();
        uses(0, 300);
        step();
    }
    for (int k = 0; k < 6; k++) {
        int length = draw(2) ? 100 : 300;
        cr_assert_geq(uses(0, length), length - 1, "at most one surprise");
        step();
    }
    end();
}

/* ---- departures ----------------------------------------------------------- */

Test(schedule, a_departure_is_noticed_and_learned_within_a_step)
{
    open_with(400);
    for (int k = 0; k < 10; k++) {
        uses(0, 200);
        step();
    }
    uses(0, 100);
    cr_assert(s.trusted);
    for (int i = 0; i < 16; i++)
        cr_assert_not(use(200 + i * 7 % 200));
    cr_assert_not(s.trusted, "what is expected does not come");
    for (int i = 16; i < 200; i++)
        use(200 + i * 7 % 200);
    step();
    int foreseen = uses(0, 100);
    for (int i = 0; i < 200; i++)
        foreseen += use(200 + i * 7 % 200);
    step();
    cr_assert_eq(foreseen, 300);
    cr_assert(s.trusted);
    end();
}

Test(schedule, the_first_unexpected_use_has_no_next)
{
    open_with(100);
    for (int k = 0; k < 3; k++) {
        uses(0, 50);
        step();
    }
    uses(0, 20);
    use(70);
    cr_assert_eq(item[70].next, SCHEDULE_UNKNOWN);
    cr_assert_eq(uses(20, 50), 30, "something new in between does not disturb");
    end();
}

Test(schedule, uses_left_out_are_jumped_over)
{
    static const int gaps[] = {1, 10, 31, 100};
    for (int k = 0; k < 4; k++) {
        open_with(400);
        for (int n = 0; n < 3; n++) {
            uses(0, 400);
            step();
        }
        uses(0, 100);
        int foreseen = uses(100 + gaps[k], 400);
        cr_assert_geq(foreseen, 300 - gaps[k] - 5, "%d left out, %d foreseen", gaps[k], foreseen);
        end();
    }
}

Test(schedule, what_comes_late_is_taken_for_what_it_is)
{
    open_with(400);
    for (int n = 0; n < 3; n++) {
        uses(0, 400);
        step();
    }
    uses(0, 100);
    uses(102, 110);
    use(100), use(101);
    cr_assert_eq(item[100].next, s.base + 400 + 100);
    cr_assert_eq(uses(110, 400), 290);
    cr_assert(s.trusted);
    end();
}

Test(schedule, threads_that_take_turns_by_chance_are_trusted)
{
    open_with(400);
    for (int n = 0; n < 8; n++, step())
        for (int at[2] = {0, 0}; at[0] < 200 || at[1] < 200;) {
            int k = at[0] >= 200 || (at[1] < 200 && at[0] - at[1] + draw(9) - 4 > 0);
            use(200 * k + at[k]++);
            cr_assert(n < 3 || s.trusted || at[0] + at[1] < 20);
        }
    end();
}

Test(schedule, chance_is_not_trusted)
{
    unsigned long trusted = 0, uses_made = 0;
    open_with(100);
    for (int n = 0; n < 100; n++, step())
        for (int i = 0; i < 300; i++, uses_made++) {
            use(draw(100));
            trusted += s.trusted;
        }
    cr_assert_leq(trusted, uses_made / 100);
    cr_assert_gt(s.sleep + s.bad, 0);
    end();
}

Test(schedule, after_chance_order_is_found_again)
{
    for (int marked = 0; marked < 2; marked++) {
        open_with(100);
        for (int n = 0; n < 30000; n++) {
            use(draw(100));
            if (marked && n % 300 == 299)
                step();
        }
        int rounds = 0;
        for (; rounds < 3000 && !s.trusted; rounds++) {
            uses(0, 100);
            if (marked)
                step();
        }
        cr_assert_lt(rounds, 2000, "marked: %d", marked);
        cr_assert_geq(uses(0, 100), 99);
        end();
    }
}

/* ---- tensors that come and go -------------------------------------------- */

/* A step with tensors of its own: makes and uses `n`, then uses them again in
 * reverse order and destroys them. */
static int renewed_step(int kept, int n, uint64_t bytes)
{
    int foreseen = 0;
    for (int i = 0; i < n; i++) {
        foreseen += use(i % kept);
        schedule_created(&s, &item[kept + i], NULL, bytes + (uint64_t)i);
        use_as(kept + i, TERRACE_OVERWRITE);
    }
    for (int i = n; i-- > 0;) {
        foreseen += use(kept + i);
        foreseen += use(i % kept);
        schedule_gone(&s, &item[kept + i]);
    }
    return foreseen;
}

Test(schedule, new_tensors_take_over_the_places_of_old_ones)
{
    for (int marked = 0; marked < 2; marked++) {
        int foreseen = 0;
        open_with(50);
        for (int k = 0; k < 6; k++) {
            foreseen = renewed_step(50, 50, 8192);
            if (marked)
                step();
        }
        cr_assert_geq(foreseen, 148, "marked %d: %d foreseen", marked, foreseen);
        cr_assert_leq(s.places, 600);
        end();
    }
}

Test(schedule, of_another_size_they_still_do)
{
    int foreseen = 0;
    open_with(50);
    for (int k = 0; k < 6; k++) {
        foreseen = renewed_step(50, 50, (uint64_t)8192 * (uint64_t)(k + 1));
        step();
    }
    cr_assert_geq(foreseen, 149);
    end();
}

Test(schedule, when_a_tensor_will_be_destroyed_is_foretold)
{
    open_with(20);
    for (int k = 0; k < 5; k++) {
        schedule_created(&s, &item[20], NULL, 5000);
        use_as(20, TERRACE_OVERWRITE);
        uses(0, 5);
        use(20);
        if (k == 4) {
            cr_assert(item[20].dies);
            cr_assert_eq(item[20].next, s.now + 5);
            cr_assert_eq(schedule_next_mode(&s, &item[20]), 0);
        }
        uses(5, 10);
        schedule_gone(&s, &item[20]);
        uses(10, 20);
        step();
    }
    end();
}

Test(schedule, replaced_before_the_old_one_is_destroyed)
{
    int foreseen = 0;
    open_with(20);
    for (int k = 0; k < 8; k++) { /* 20 and 21 take turns, both exist for a while */
        int young = 20 + k % 2, old = 20 + (k + 1) % 2;
        foreseen = uses(0, 10);
        schedule_created(&s, &item[young], NULL, 5000);
        use_as(young, TERRACE_OVERWRITE);
        if (k)
            schedule_gone(&s, &item[old]);
        foreseen += uses(10, 20);
        foreseen += use(young);
        step();
    }
    cr_assert_eq(foreseen, 21);
    end();
}

Test(schedule, a_lasting_tensor_keeps_its_place)
{
    open_with(31);
    for (int k = 0; k < 3; k++) {
        uses(0, 30);
        step();
    }
    uses(0, 10);
    uint32_t place = item[10].place;
    schedule_created(&s, &item[40], NULL, item[10].bytes);
    use_as(40, TERRACE_OVERWRITE);
    cr_assert_eq(item[10].place, place);
    cr_assert_eq(uses(10, 30), 20);
    end();
}

/* ---- the uses to come ------------------------------------------------------ */

Test(schedule, the_uses_to_come_are_told_in_order)
{
    struct schedule_cursor c;
    struct schedule_coming u;
    open_with(30);
    schedule_coming(&s, &c);
    cr_assert_not(schedule_coming_next(&c, &u), "nothing is known yet");
    for (int k = 0; k < 3; k++) {
        uses(0, 30);
        step();
    }
    uses(0, 10);
    schedule_coming(&s, &c);
    for (int i = 0; i < 80; i++) {
        cr_assert(schedule_coming_next(&c, &u), "%d", i);
        cr_assert_eq(u.item, &item[(10 + i) % 30]);
        cr_assert_eq(u.when, s.now + (uint64_t)i);
        cr_assert_eq(u.ns, 2000 * (uint64_t)(i + 1));
        cr_assert_eq(u.mode, READ);
    }
    cr_assert_not(schedule_coming_next(&c, &u), "the step after the next has ended");
    end();
}

/* ---- limits --------------------------------------------------------------- */

Test(schedule, ever_new_steps_leave_bounds_alone)
{
    open_with(1000);
    for (int k = 0; k < 100; k++) {
        for (int i = 0; i < 200; i++)
            use(draw(3) ? (i * 5 + k) % 1000 : i);
        step();
        check_whole(1000);
    }
    end();
}

Test(schedule, ever_new_tensors_do_not_fill_memory)
{
    open_with(MOST);
    for (int k = 0; k < 400000; k++) {
        int i = draw(MOST);
        schedule_gone(&s, &item[i]);
        schedule_created(&s, &item[i], NULL, (uint64_t)draw(1 << 20));
        use(i);
        s.bad = 0; /* or it would rest */
        if (k % 1000 == 999)
            step();
    }
    cr_assert_leq(s.places_room, 65536);
    check_whole(MOST);
    end();
}

Test(schedule, a_step_beyond_the_limit_is_not_learned_and_does_no_harm)
{
    open_with(MOST);
    for (int k = 0; k < 3; k++) {
        for (long i = 0; i < SCHEDULE_STEP_MOST + 5000L; i++)
            use((int)(i * i % 3989));
        step();
    }
    check_whole(MOST);
    cr_assert_leq(s.room, SCHEDULE_STEP_MOST);
    end();
}

Test(schedule, many_long_steps_forget_the_least_useful)
{
    enum { LENGTH = 100000, KINDS = 14 };
    open_with(MOST);
    for (int round = 0; round < 2; round++) /* the useful one comes again */
        for (long i = 0; i < LENGTH; i++, i % LENGTH ? (void)0 : step())
            use((int)(i % 3000));
    for (int kind = 1; kind < KINDS; kind++) {
        for (long i = 0; i < LENGTH; i++)
            use((int)(i * (kind + 1) % 3989));
        s.bad = 0; /* or it would rest */
        step();
        check_whole(MOST);
    }
    use(0), use(1), use(2);
    cr_assert_geq(uses(3, 3000), 2990, "what has come twice is still known");
    end();
}

/* Everything at once, at random: nothing breaks, bounds hold. */
Test(schedule, random_programs)
{
    enum { ITEMS = 60 };
    for (int seed = 1; seed <= 40; seed++) {
        random_state = (uint64_t)seed * 7919;
        open_with(ITEMS);
        bool marked = seed % 3 != 0;
        int at = 0;
        for (int k = 0; k < 6000; k++) {
            int what = draw(100);
            if (what < 2) {
                int i = draw(ITEMS);
                schedule_gone(&s, &item[i]);
                schedule_created(&s, &item[i], NULL, 4096u << draw(2));
            } else if (what < 4) {
                at = draw(ITEMS);
            } else if (what < 5 && marked) {
                step();
            } else {
                use(what < 90 ? at++ % ITEMS : draw(ITEMS));
            }
            if (k % 100 == 0)
                check_whole(ITEMS);
        }
        end();
    }
}

/* ---- from one process to the next ------------------------------------------ */

static void program(int steps)
{
    for (int k = 0; k < steps; k++) {
        renewed_step(50, 50, 8192);
        step();
        if (k % 3 == 2) {
            uses(0, 30);
            step();
        }
    }
}

static unsigned char *saved(size_t *bytes)
{
    open_with(50);
    program(9);
    unsigned char *data = schedule_save(&s, bytes);
    end();
    cr_assert_not_null(data);
    return data;
}

Test(schedule, a_restarted_program_is_known_from_its_first_use)
{
    char why[100];
    size_t bytes;
    unsigned char *data = saved(&bytes);
    schedule_init(&s);
    cr_assert(schedule_load(&s, data, bytes, why, sizeof why), "%s", why);
    for (int i = 0; i < 50; i++)
        schedule_created(&s, &item[i], NULL, 4096 + (uint64_t)(i % 3) * 4096);
    cr_assert_neq(item[20].next, SCHEDULE_UNKNOWN, "before anything was used");
    cr_assert_geq(renewed_step(50, 50, 8192), 149);
    check_whole(100);
    step();
    cr_assert_geq(renewed_step(50, 50, 8192), 149);
    free(data);
    end();
}

Test(schedule, names_are_recognised_in_any_order)
{
    enum { N = 40 };
    char why[100], name[20];
    size_t bytes;
    schedule_init(&s);
    for (int i = 0; i < N; i++) {
        snprintf(name, sizeof name, "w/%d", i);
        schedule_created(&s, &item[i], name, 4096);
    }
    for (int k = 0; k < 3; k++) {
        uses(0, N);
        step();
    }
    void *data = schedule_save(&s, &bytes);
    end();
    schedule_init(&s);
    cr_assert(schedule_load(&s, data, bytes, why, sizeof why));
    for (int i = N; i--;) {
        snprintf(name, sizeof name, "w/%d", i);
        schedule_created(&s, &item[i], name, 4096);
    }
    cr_assert_eq(uses(0, N), N);
    free(data);
    end();
}

Test(schedule, saving_what_was_loaded_changes_nothing)
{
    char why[100];
    size_t bytes, again;
    unsigned char *data = saved(&bytes);
    schedule_init(&s);
    cr_assert(schedule_load(&s, data, bytes, why, sizeof why));
    unsigned char *second = schedule_save(&s, &again);
    cr_assert_eq(bytes, again);
    cr_assert_arr_eq(data, second, bytes);
    free(data);
    free(second);
    end();
    schedule_init(&s); /* nothing learned yet */
    data = schedule_save(&s, &bytes);
    cr_assert(schedule_load(&s, data, bytes, why, sizeof why), "%s", why);
    free(data);
    end();
}

Test(schedule, damage_at_any_byte_is_found)
{
    char why[100];
    size_t bytes;
    unsigned char *data = saved(&bytes);
    schedule_init(&s);
    for (size_t i = 0; i < bytes; i++) {
        unsigned char was = data[i];
        data[i] ^= (unsigned char)(1 + draw(255));
        *why = '\0';
        cr_assert_not(schedule_load(&s, data, bytes, why, sizeof why), "byte %zu", i);
        cr_assert(*why);
        data[i] = was;
    }
    for (size_t n = 0; n < bytes; n += n < 100 ? 1 : 97)
        cr_assert_not(schedule_load(&s, data, n, why, sizeof why), "cut to %zu", n);
    cr_assert_not(schedule_load(&s, "#!/bin/sh\nexit 0\n# some other file altogether\n", 46, why, sizeof why));
    cr_assert_null(s.line);
    cr_assert_eq(s.places, 0);
    free(data);
    end();
}

/* Whoever writes the right checksum under nonsense gets no further. */
Test(schedule, nonsense_with_a_right_checksum_breaks_nothing)
{
    char why[100];
    size_t bytes;
    unsigned char *data = saved(&bytes), *copy = malloc(bytes);
    cr_assert_not_null(copy);
    for (int k = 0; k < 3000; k++) {
        memcpy(copy, data, bytes);
        for (int n = draw(3); n >= 0; n--)
            copy[20 + draw(draw(2) ? 100 : (int)bytes - 28)] = (unsigned char)draw(256);
        uint64_t sum = XXH3_64bits(copy, bytes - 8);
        for (int i = 0; i < 8; i++)
            copy[bytes - 8 + (size_t)i] = (unsigned char)(sum >> 8 * i);
        schedule_init(&s);
        if (schedule_load(&s, copy, bytes, why, sizeof why)) {
            for (int i = 0; i < 50; i++)
                schedule_created(&s, &item[i], NULL, 4096 + (uint64_t)(i % 3) * 4096);
            program(2);
            check_whole(100);
        }
        end();
    }
    free(copy);
    free(data);
}
