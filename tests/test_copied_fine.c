/* test_copied_fine.c - the cases of test_fine.c where pages are copied. */
#include "copied.h"
#include "test_fine.c"
