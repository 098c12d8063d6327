/* sim_books.h - what the simulated driver has seen that nobody should do. */
#ifndef TERRACE_TESTS_SIM_BOOKS_H
#define TERRACE_TESTS_SIM_BOOKS_H

#include <string.h>

#include "sim/sim.h"

/* The first misuse, or NULL. Asking for an attribute that it does not simulate is
 * none: a real driver knows more of them. */
static inline const char *sim_complaint(void)
{
    for (unsigned i = 0; i < sim_misuses(); i++)
        if (!strstr(sim_misuse(i), "an attribute that is not simulated"))
            return sim_misuse(i);
    return NULL;
}

#endif
