/* test_copied_away.c - the cases of test_away.c where pages are copied. */
#include "copied.h"
#include "test_away.c"
