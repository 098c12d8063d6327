/* depth.h - how many pieces a lane keeps in flight, and how large they are: what gains something.
 * May call: libc. No I/O, no locks, no clock. */
#ifndef TERRACE_LIB_DEPTH_H
#define TERRACE_LIB_DEPTH_H

#include <stdbool.h>
#include <stdint.h>

struct depth_way {
    unsigned pieces; /* in flight */
    unsigned halved; /* how often the largest piece that the backend takes is */
};

/* What is tried: more or less in flight, larger or smaller pieces. */
enum depth_move { DEPTH_MORE, DEPTH_LESS, DEPTH_SMALLER, DEPTH_LARGER, DEPTH_MOVES };

struct depth {
    struct depth_way now;     /* that applies */
    struct depth_way settled; /* the best that is known */
    unsigned least, most;     /* pieces in flight */
    uint64_t largest;         /* bytes of a piece, not halved */
    unsigned halved_most;
    /* The trial under way: settled and another way take turns. */
    bool trying;
    enum depth_move move;
    struct depth_way other;
    unsigned turn, better; /* windows so far; pairs in which the other was faster */
    unsigned skip;         /* pieces that do not count: still of the window before */
    uint64_t pieces, window_bytes, window_ns; /* of the window under way */
    uint64_t bytes[2], ns[2]; /* settled's and the other's sums */
    double rate;           /* settled's in the pair under way */
    /* Between trials: */
    uint64_t wait, pause;  /* pieces until the next; after that */
    uint64_t idle;         /* pieces with which both ways are the same, or, before, nothing waited */
};

/* Without room for trials (least and most are `start`, halved_most is 0) it stays there. */
void depth_init(struct depth *d, unsigned start, unsigned least, unsigned most, uint64_t largest,
                unsigned halved_most);
/* So many pieces have come back, `ns` after the ones before, while `in_flight` were
 * under way and, if `more`, others waited for room. */
void depth_done(struct depth *d, unsigned pieces, uint64_t bytes, uint64_t ns, unsigned in_flight, bool more);

#endif
