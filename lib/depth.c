/* depth.c - how many pieces a lane keeps in flight, and how large they are: what gains something.
 *
 * By Little's law (J. D. C. Little: "A proof for the queuing formula L = λW",
 * Operations Research 1961) n pieces in flight, each of which takes w, come back
 * at the rate n / w. As long as w does not depend on n, more in flight is faster;
 * from where the device has its fill, w grows with n and the rate does not. Where
 * that is depends on the device and on what lies before it, and w alone does not
 * tell it: what is waited for in the device's own queue is part of it. How large
 * pieces should be depends on it, too: where each takes its time whatever its size,
 * large ones are faster; where one piece is served no faster than some rate, but
 * others at the same time, a tensor comes sooner in more of them.
 *
 * So it is tried: now and then twice or half as many, or pieces half or twice as
 * large, take turns with what is settled, window by window, so that what else
 * happens to the device meets both. What puts more bytes in flight (more pieces, or
 * larger ones) must be faster by a twentieth and in nearly all pairs of windows; what
 * puts fewer must be as fast but for a hundredth: what is asked for urgently then
 * waits half as long. The number is tried while more waits than may be in flight, the
 * size while there are pieces that large. The longer nothing changes, the more rarely
 * it is tried.
 *
 * May call: libc. */
#include "depth.h"

enum {
    PAIRS = 8,        /* windows of each in a trial */
    CLEAR = 6,        /* in so many pairs the one with more in flight must be faster */
    ROUNDS = 4,       /* times the deeper depth: the pieces of a window */
    PAUSE_LEAST = 256, PAUSE_MOST = 16384, /* pieces between trials */
};
static const double GAIN = 1.05, LOSS = 0.99;

void depth_init(struct depth *d, unsigned start, unsigned least, unsigned most, uint64_t largest,
                unsigned halved_most)
{
    struct depth_way way = {.pieces = start};
    *d = (struct depth){.now = way, .settled = way, .least = least, .most = most, .largest = largest,
                        .halved_most = halved_most, .move = DEPTH_LARGER, .wait = PAUSE_LEAST, .pause = PAUSE_LEAST};
}

static unsigned deeper(const struct depth *d)
{
    return d->other.pieces > d->settled.pieces ? d->other.pieces : d->settled.pieces;
}

static uint64_t window(const struct depth *d)
{
    return (uint64_t)ROUNDS * deeper(d);
}

static void window_begin(struct depth *d)
{
    d->now = d->turn % 2 ? d->other : d->settled;
    d->skip = deeper(d);
    d->pieces = d->window_bytes = d->window_ns = 0;
}

/* Makes the other way of the settled one; false: there is none. */
static bool move(struct depth *d)
{
    struct depth_way *w = &d->other;
    *w = d->settled;
    switch (d->move) {
    case DEPTH_MORE:
        w->pieces *= 2;
        return w->pieces <= d->most;
    case DEPTH_LESS:
        w->pieces /= 2;
        return w->pieces >= d->least;
    case DEPTH_SMALLER:
        return ++w->halved <= d->halved_most;
    default:
        return w->halved-- > 0;
    }
}

static bool of_number(enum depth_move move)
{
    return move == DEPTH_MORE || move == DEPTH_LESS;
}

static void trial_begin(struct depth *d, bool more)
{
    d->wait = d->pause;
    d->idle = 0;
    for (int i = 0; i < DEPTH_MOVES && !d->trying; i++) {
        d->move = (d->move + 1) % DEPTH_MOVES;
        d->trying = (more || !of_number(d->move)) && move(d);
    }
    if (!d->trying)
        return;
    d->turn = d->better = 0;
    d->bytes[0] = d->bytes[1] = d->ns[0] = d->ns[1] = 0;
    window_begin(d);
}

static void trial_over(struct depth *d)
{
    d->trying = false;
    d->now = d->settled;
    d->wait = d->pause;
    d->idle = 0;
}

static double rate(uint64_t bytes, uint64_t ns)
{
    return (double)bytes / (double)(ns + 1);
}

static void trial_end(struct depth *d)
{
    double gain = rate(d->bytes[1], d->ns[1]) / rate(d->bytes[0], d->ns[0]);
    bool puts_more = d->move == DEPTH_MORE || d->move == DEPTH_LARGER;
    if (puts_more ? gain >= GAIN && d->better >= CLEAR : gain >= LOSS) {
        d->move = (d->move + DEPTH_MOVES - 1) % DEPTH_MOVES; /* on in the same direction */
        d->settled = d->other;
        d->pause = PAUSE_LEAST;
    } else if (d->pause < PAUSE_MOST) {
        d->pause *= 2;
    }
    trial_over(d);
}

static void window_end(struct depth *d)
{
    unsigned which = d->turn++ % 2;
    double now = rate(d->window_bytes, d->window_ns);
    d->bytes[which] += d->window_bytes;
    d->ns[which] += d->window_ns;
    d->better += which && now > d->rate;
    d->rate = now;
    if (d->turn == 2 * PAIRS)
        trial_end(d);
    else
        window_begin(d);
}

/* Whether these pieces would be the same in both ways: too few, too small, or not cut by it. */
static bool same(const struct depth *d, unsigned pieces, uint64_t bytes, unsigned in_flight)
{
    unsigned shallow = d->other.pieces < d->settled.pieces ? d->other.pieces : d->settled.pieces;
    unsigned halved = d->other.halved > d->settled.halved ? d->other.halved : d->settled.halved;
    uint64_t small = d->largest >> halved;
    if (of_number(d->move))
        return in_flight < shallow - shallow / 4;
    return bytes < pieces * (small - small / 4) || bytes > pieces * (d->largest >> d->now.halved);
}

void depth_done(struct depth *d, unsigned pieces, uint64_t bytes, uint64_t ns, unsigned in_flight, bool more)
{
    if (d->least == d->most && !d->halved_most)
        return;
    if (!d->trying) {
        d->wait -= d->wait < pieces ? d->wait : pieces;
        d->idle += d->wait || more ? 0 : pieces;
        if (d->wait == 0 && (more || d->idle > PAUSE_LEAST))
            trial_begin(d, more);
        return;
    }
    if (same(d, pieces, bytes, in_flight)) {
        d->idle += pieces;
        if (d->idle > 2 * PAIRS * window(d))
            trial_over(d); /* for all that is known then */
        return;
    }
    if (d->skip) {
        d->skip -= d->skip < pieces ? d->skip : pieces;
        return;
    }
    d->pieces += pieces;
    d->window_bytes += bytes;
    d->window_ns += ns;
    if (d->pieces >= window(d))
        window_end(d);
}
