/* test_copied_forked.c - the cases of test_forked.c where pages are copied. */
#include "copied.h"
#include "test_forked.c"
