/* trace_write.h - events of the timeline as text, in a file that processes share.
 * May call: trace.h. */
#ifndef TERRACE_LIB_TRACE_WRITE_H
#define TERRACE_LIB_TRACE_WRITE_H

#include <sys/types.h>

#include "trace.h"

enum { TRACE_SLOTS = 64, TRACE_THREADS = 256, TRACE_TEXT = 64 << 10, TRACE_LINE = 2048 };

/* One at a time may use it. */
struct trace_writer {
    struct terrace *m;
    int fd;                 /* -1: nothing is written any more */
    dev_t device;           /* what it must be: a program may close files that are not its own, */
    ino_t inode;            /* and then have others by the same number */
    int error;              /* why */
    unsigned manager;       /* its number in the process */
    uint64_t written;
    struct trace_track {    /* a route's; NULL: nothing has gone that way */
        unsigned named;     /* of its slots */
        uint64_t end[TRACE_SLOTS]; /* of the last migration shown there */
    } *track[MAX_TIERS][MAX_TIERS];
    uint32_t thread[TRACE_THREADS]; /* those that have been named; by number */
    bool faults;            /* that track has been named */
    uint64_t in_use[MAX_TIERS]; /* as written last */
    size_t used;
    char text[TRACE_TEXT];
};

/* Opens the file, or joins those who are writing to it. False: why is in errno. */
bool trace_writer_open(struct trace_writer *w, struct terrace *m, const char *path);
void trace_writer_event(struct trace_writer *w, const struct trace_event *e);
void trace_writer_lost(struct trace_writer *w, uint64_t events, uint64_t bytes);
/* Bytes in use of every tier, as far as they have changed. Takes the lock. */
void trace_writer_tiers(struct trace_writer *w);
/* Hands over what has been put together. */
void trace_writer_flush(struct trace_writer *w);
/* The same, and the end of the file where nobody else is writing to it. */
void trace_writer_end(struct trace_writer *w);

#endif
