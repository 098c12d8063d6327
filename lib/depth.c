/* depth.c - how many pieces a lane keeps in flight: as many as gain something.
 *
 * By Little's law (J. D. C. Little: "A proof for the queuing formula L = λW",
 * Operations Research 1961) n pieces in flight, each of which takes w, come back
 * at the rate n / w. As long as w does not depend on n, more in flight is faster;
 * from where the device has its fill, w grows with n and the rate does not. Where
 * that is depends on the device and on what lies before it, and w alone does not
 * tell it: what is waited for in the device's own queue is part of it. So it is
 * tried: now and then, while more waits than may be in flight, twice or half as
 * many take turns with what is settled, window by window, so that what else
 * happens to the device meets both. Twice as many must be faster by a twentieth and
 * in nearly all pairs of windows; half as many must be as fast but for a hundredth:
 * what is asked for urgently then waits half as long. The longer nothing changes, the more rarely it is tried.
 *
 * May call: libc. */
#include "depth.h"

enum {
    PAIRS = 8,        /* windows of each in a trial */
    CLEAR = 6,        /* in so many pairs the deeper one must be faster */
    ROUNDS = 4,       /* times the deeper depth: the pieces of a window */
    PAUSE_LEAST = 256, PAUSE_MOST = 16384, /* pieces between trials */
};
static const double GAIN = 1.05, LOSS = 0.99;

void depth_init(struct depth *d, unsigned start, unsigned least, unsigned most)
{
    *d = (struct depth){.now = start, .settled = start, .least = least, .most = most,
                        .wait = PAUSE_LEAST, .pause = PAUSE_LEAST};
}

static unsigned deeper(const struct depth *d)
{
    return d->other > d->settled ? d->other : d->settled;
}

static void window_begin(struct depth *d)
{
    d->now = d->turn % 2 ? d->other : d->settled;
    d->skip = deeper(d);
    d->pieces = d->window_bytes = d->window_ns = 0;
}

static void trial_begin(struct depth *d)
{
    bool down = d->down;
    d->down = !down; /* next time */
    d->wait = d->pause;
    d->other = down ? d->settled / 2 : d->settled * 2;
    if (d->other < d->least || d->other > d->most) {
        d->other = 0;
        return;
    }
    d->turn = d->better = 0;
    d->bytes[0] = d->bytes[1] = d->ns[0] = d->ns[1] = 0;
    window_begin(d);
}

static double rate(uint64_t bytes, uint64_t ns)
{
    return (double)bytes / (double)(ns + 1);
}

static void trial_end(struct depth *d)
{
    double gain = rate(d->bytes[1], d->ns[1]) / rate(d->bytes[0], d->ns[0]);
    bool taken = d->other > d->settled ? gain >= GAIN && d->better >= CLEAR : gain >= LOSS;
    if (taken) {
        d->down = d->other < d->settled; /* on in the same direction */
        d->settled = d->other;
        d->pause = PAUSE_LEAST;
    } else if (d->pause < PAUSE_MOST) {
        d->pause *= 2;
    }
    d->other = 0;
    d->now = d->settled;
    d->wait = d->pause;
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

void depth_done(struct depth *d, unsigned pieces, uint64_t bytes, uint64_t ns, unsigned in_flight, bool more)
{
    if (d->least == d->most)
        return;
    if (!d->other) {
        d->wait -= !more ? 0 : d->wait < pieces ? d->wait : pieces;
        if (d->wait == 0)
            trial_begin(d);
        return;
    }
    unsigned shallow = d->other < d->settled ? d->other : d->settled;
    if (in_flight < shallow - shallow / 4)
        return; /* it would be the same with either */
    if (d->skip) {
        d->skip -= d->skip < pieces ? d->skip : pieces;
        return;
    }
    d->pieces += pieces;
    d->window_bytes += bytes;
    d->window_ns += ns;
    if (d->pieces >= (uint64_t)ROUNDS * deeper(d))
        window_end(d);
}
