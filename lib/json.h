/* json.h - text as a JSON string, whatever bytes it has. For library and command.
 * May call: libc. */
#ifndef TERRACE_LIB_JSON_H
#define TERRACE_LIB_JSON_H

#include <stddef.h>
#include <stdio.h>

/* Bytes of the UTF-8 character that begins here, 0: none does. Surrogates and
 * characters that are longer than they need be are none. */
static inline size_t json_character(const unsigned char *c)
{
    static const struct {
        unsigned char mask, lead;
        unsigned least;
    } form[] = {{0x80, 0, 0}, {0xe0, 0xc0, 0x80}, {0xf0, 0xe0, 0x800}, {0xf8, 0xf0, 0x10000}};
    for (size_t n = 1; n <= 4; n++) {
        if ((*c & form[n - 1].mask) != form[n - 1].lead)
            continue;
        unsigned code = *c & (unsigned char)~form[n - 1].mask;
        for (size_t i = 1; i < n; i++) {
            if ((c[i] & 0xc0) != 0x80)
                return 0;
            code = code << 6 | (c[i] & 0x3f);
        }
        return code >= form[n - 1].least && code <= 0x10ffff && (code < 0xd800 || code > 0xdfff) ? n : 0;
    }
    return 0;
}

/* Writes the text, escaped and without quotes, as far as there is room; returns how
 * long it is then. What is no UTF-8 becomes U+FFFD. */
static inline size_t json_escape(const char *text, char *out, size_t room)
{
    size_t used = 0;
    for (const unsigned char *c = (const unsigned char *)text; *c && used + 7 <= room;) {
        size_t n = json_character(c);
        if (n == 0)
            used += (size_t)snprintf(out + used, room - used, "\\ufffd");
        else if (n == 1 && (*c == '"' || *c == '\\'))
            used += (size_t)snprintf(out + used, room - used, "\\%c", *c);
        else if (n == 1 && (*c < ' ' || *c == 0x7f))
            used += (size_t)snprintf(out + used, room - used, "\\u%04x", (unsigned)*c);
        else
            for (size_t i = 0; i < n; i++)
                out[used++] = (char)c[i];
        c += n ? n : 1;
    }
    if (room)
        out[used] = 0;
    return used;
}

/* The same to a stream, of any length and with quotes. */
static inline void json_put(const char *text, FILE *out)
{
    char some[7], part[8];
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        size_t n = json_character(c);
        n = n ? n : 1;
        for (size_t i = 0; i < n; i++)
            some[i] = (char)c[i];
        some[n] = 0;
        json_escape(some, part, sizeof part);
        fputs(part, out);
        c += n;
    }
    fputc('"', out);
}

#endif
