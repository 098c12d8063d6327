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

/* The character, or one byte that begins none, as it stands in a string: escaped where
 * it has to be, U+FFFD for what is no UTF-8. Returns how many bytes of the text it was. */
static inline size_t json_escaped(const unsigned char *c, char out[8])
{
    size_t n = json_character(c);
    if (n == 0)
        snprintf(out, 8, "\\ufffd");
    else if (n == 1 && (*c == '"' || *c == '\\'))
        snprintf(out, 8, "\\%c", *c);
    else if (n == 1 && (*c < ' ' || *c == 0x7f))
        snprintf(out, 8, "\\u%04x", (unsigned)*c);
    else
        snprintf(out, 8, "%.*s", (int)n, (const char *)c);
    return n ? n : 1;
}

/* Writes the text so, as far as there is room; returns how long it is then. */
static inline size_t json_escape(const char *text, char *out, size_t room)
{
    size_t used = 0;
    char one[8];
    for (const unsigned char *c = (const unsigned char *)text; *c && used + sizeof one <= room;) {
        c += json_escaped(c, one);
        used += (size_t)snprintf(out + used, room - used, "%s", one);
    }
    return used;
}

/* The same to a stream, of any length and with quotes. */
static inline void json_put(const char *text, FILE *out)
{
    char one[8];
    fputc('"', out);
    for (const unsigned char *c = (const unsigned char *)text; *c;) {
        c += json_escaped(c, one);
        fputs(one, out);
    }
    fputc('"', out);
}

/* A member of an object, without what separates it from the next; NULL is "". */
static inline void json_member(const char *key, const char *text, FILE *out)
{
    fprintf(out, "\"%s\":", key);
    json_put(text ? text : "", out);
}

#endif
