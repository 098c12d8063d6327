/* Codes, texts, the sentence of each thread, and sizes for people. */
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#include "error.h"

Test(error, every_code_has_its_own_text)
{
    const char *texts[TERRACE_ERROR_LAST] = {"success"};
#define CHECK(name, value, text)                                     \
    cr_assert_str_eq(terrace_strerror(-TERRACE_##name), text, #name); \
    texts[value] = text;
    TERRACE_ERRORS(CHECK)
#undef CHECK
    for (int i = 0; i < TERRACE_ERROR_LAST; i++) {
        cr_assert_not_null(texts[i], "no code has the value %d", i);
        for (int j = 0; j < i; j++)
            cr_assert_str_neq(texts[i], texts[j]);
    }
}

Test(error, other_numbers_have_a_text_too)
{
    cr_assert_str_eq(terrace_strerror(0), "success");
    const int odd[] = {1, TERRACE_ENOMEM, -TERRACE_ERROR_LAST, -100000, INT32_MAX, INT32_MIN};
    for (size_t i = 0; i < sizeof odd / sizeof *odd; i++)
        cr_assert_str_eq(terrace_strerror(odd[i]), "an unknown error", "%d", odd[i]);
}

Test(error, set_records_the_sentence_and_returns_the_code)
{
    cr_assert_str_eq(terrace_last_error(), "");
    cr_assert_eq(error_set(-TERRACE_EIO, "read of %d bytes failed", 7), -TERRACE_EIO);
    cr_assert_str_eq(terrace_last_error(), "read of 7 bytes failed");
    terrace_strerror(-TERRACE_EINVAL);
    terrace_version();
    cr_assert_str_eq(terrace_last_error(), "read of 7 bytes failed");
}

Test(error, a_sentence_may_quote_the_one_before)
{
    error_set(-TERRACE_EIO, "the disk said no");
    error_set(-TERRACE_EIO, "giving up: %s", terrace_last_error());
    cr_assert_str_eq(terrace_last_error(), "giving up: the disk said no");
}

Test(error, a_long_sentence_is_cut_and_says_so)
{
    char text[2 * ERROR_TEXT];
    memset(text, 'x', sizeof text);
    text[ERROR_TEXT - 1] = 0; /* just fits */
    error_set(-TERRACE_EIO, "%s", text);
    cr_assert_str_eq(terrace_last_error(), text);
    text[ERROR_TEXT - 1] = 'x';
    text[sizeof text - 1] = 0;
    error_set(-TERRACE_EIO, "%s", text);
    cr_assert_eq(strlen(terrace_last_error()), ERROR_TEXT - 1);
    cr_assert_str_eq(terrace_last_error() + ERROR_TEXT - 5, "x...");
}

static void *in_another_thread(void *unused)
{
    const char *before = terrace_last_error();
    if (*before)
        return (void *)before;
    error_set(-TERRACE_EIO, "theirs");
    return unused;
}

Test(error, each_thread_has_its_own_sentence)
{
    pthread_t thread;
    void *seen;
    error_set(-TERRACE_EIO, "mine");
    cr_assert_eq(pthread_create(&thread, NULL, in_another_thread, NULL), 0);
    pthread_join(thread, &seen);
    cr_assert_null(seen, "a new thread began with a sentence");
    cr_assert_str_eq(terrace_last_error(), "mine");
}

Test(error, bytes_for_people)
{
    static const struct {
        unsigned long long bytes;
        const char *text;
    } sizes[] = {
        {0, "0 B"},
        {1, "1 B"},
        {1023, "1023 B"},
        {1024, "1.0 KiB"},
        {1536, "1.5 KiB"},
        {(1ull << 20) - 1, "1.0 MiB"},
        {8ull << 20, "8.0 MiB"},
        {23ull << 30, "23.0 GiB"},
        {UINT64_MAX, "16.0 EiB"},
    };
    char buf[BYTES_TEXT];
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        cr_assert_str_eq(bytes_text(sizes[i].bytes, buf), sizes[i].text);
}

Test(error, the_version_is_the_header_s)
{
    cr_assert_str_eq(terrace_version(), TERRACE_VERSION);
}
