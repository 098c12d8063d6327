/* criterion.c - of Criterion's library, what its assertions call besides
 * plain_main.c: programs for a machine where that library is not installed. */
#include <criterion/criterion.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

struct criterion_options criterion_options;

int cr_asprintf(char **out, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vasprintf(out, format, args);
    va_end(args);
    if (n < 0)
        abort();
    return n;
}

void cr_asprintf_free(char *text)
{
    free(text);
}

/* The message of an assertion that was given none. */
char *cr_translate_assert_msg(int index, ...)
{
    char *text;
    cr_asprintf(&text, "assertion %d failed", index);
    return text;
}
