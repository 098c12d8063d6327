/* depth.h - how many pieces a lane keeps in flight: as many as gain something.
 * May call: libc. No I/O, no locks, no clock. */
#ifndef TERRACE_LIB_DEPTH_H
#define TERRACE_LIB_DEPTH_H

#include <stdbool.h>
#include <stdint.h>

struct depth {
    unsigned now;          /* that applies */
    unsigned settled;      /* the best that is known */
    unsigned least, most;
    /* The trial under way: settled and another one take turns. */
    unsigned other;        /* 0: there is none */
    unsigned turn, better; /* windows so far; pairs in which the other was faster */
    unsigned skip;         /* pieces that do not count: still of the window before */
    uint64_t pieces, window_bytes, window_ns; /* of the window under way */
    uint64_t bytes[2], ns[2]; /* settled's and the other's sums */
    double rate;           /* settled's in the pair under way */
    /* Between trials: */
    uint64_t wait, pause;  /* pieces until the next; after that */
    bool down;             /* it tries less */
};

/* Without room for trials (least and most are `start`) it stays there. */
void depth_init(struct depth *d, unsigned start, unsigned least, unsigned most);
/* So many pieces have come back, `ns` after the ones before, while `in_flight` were
 * under way and, if `more`, others waited for room. */
void depth_done(struct depth *d, unsigned pieces, uint64_t bytes, uint64_t ns, unsigned in_flight, bool more);

#endif
