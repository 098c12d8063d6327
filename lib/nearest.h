/* nearest.h - how far apart two words are, for "did you mean".
 * Header only: the library and the command both use it. May call: libc. */
#ifndef TERRACE_LIB_NEAREST_H
#define TERRACE_LIB_NEAREST_H

#include <stdbool.h>
#include <string.h>

enum { NEAREST_LENGTH = 63 }; /* of the longest word compared; the rest is ignored */

static inline unsigned nearest_least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* How many letters were left out, added, changed, or swapped with their
 * neighbour to make b of a. */
static inline unsigned nearest_distance(const char *a, const char *b)
{
    unsigned row[3][NEAREST_LENGTH + 1];
    unsigned *before = row[0], *last = row[1], *now = row[2];
    size_t la = strnlen(a, NEAREST_LENGTH), lb = strnlen(b, NEAREST_LENGTH);
    for (unsigned j = 0; j <= lb; j++)
        last[j] = j;
    for (size_t i = 1; i <= la; i++) {
        now[0] = (unsigned)i;
        for (size_t j = 1; j <= lb; j++) {
            unsigned change = last[j - 1] + (a[i - 1] != b[j - 1]);
            now[j] = nearest_least(nearest_least(last[j], now[j - 1]) + 1, change);
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = nearest_least(now[j], before[j - 2] + 1);
        }
        unsigned *oldest = before;
        before = last;
        last = now;
        now = oldest;
    }
    return last[lb];
}

/* Whether that is near enough for a slip of the pen: one letter in a short
 * word, one more for every four. */
static inline bool nearest_is_near(const char *word, unsigned distance)
{
    return distance <= 1 + strlen(word) / 4;
}

#endif
