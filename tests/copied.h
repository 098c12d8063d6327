/* copied.h - makes a program's address-stable memory that whose pages are copied,
 * for it to run the cases of another program so. */
#ifndef TERRACE_TESTS_COPIED_H
#define TERRACE_TESTS_COPIED_H

#include <stdlib.h>

__attribute__((constructor)) static void pages_are_copied(void)
{
    setenv("TERRACE_STABLE", "copy", 1);
}

#endif
