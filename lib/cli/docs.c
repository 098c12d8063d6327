/* docs.c - help, manual and README sections, made from the tables.
 *
 * options.def and TERRACE_ERRORS are the only places where settings and errors
 * are described, and its first line the only one that says what a source file
 * is; whatever people read about them elsewhere is written here. */
#include <stdlib.h>
#include <string.h>

#include "cli.h"

enum kind { CHOICE, BOOL, SIZE, TEXT, PATHS };
enum status { HERE, LATER };

struct option_doc {
    const char *name;
    enum kind kind;
    const char *fallback, *choices, *example, *meaning;
    enum status status;
};

/* The limits are a family of names and have no row of their own. */
static const struct option_doc options[] = {
#define OPTION(id, name, kind, fallback, choices, example, meaning, status) \
    {name, kind, fallback, choices, example, meaning, status},
#include "options.def"
#undef OPTION
    {"LIMIT_<KIND>", SIZE, NULL, NULL, "8G",
     "budget of each tier of a kind (LIMIT_NUMA), of one tier (LIMIT_NUMA_0, which wins), or of a "
     "class as a whole (LIMIT_HOST): a size, or a share of the default such as 50%. The host's "
     "default is what is really available, cgroup limits included",
     HERE},
};
enum { OPTIONS = sizeof options / sizeof *options };

static const struct error_doc {
    const char *name;
    int value;
    const char *text;
} errors[] = {
#define ERROR_DOC(name, value, text) {"TERRACE_" #name, value, text},
    TERRACE_ERRORS(ERROR_DOC)
#undef ERROR_DOC
};
enum { ERRORS = sizeof errors / sizeof *errors };

/* ---- pieces -------------------------------------------------------------- */

/* Text in which troff or Markdown would see markup is protected from it. */
static void put_text(enum docs_format format, const char *text, FILE *out)
{
    for (const char *c = text; *c; c++) {
        if (format == DOCS_MAN && *c == '\\')
            fputs("\\e", out);
        else if (format == DOCS_MAN && *c == '-')
            fputs("\\-", out);
        else if (format == DOCS_README && (*c == '|' || *c == '<'))
            fprintf(out, "\\%c", *c);
        else
            fputc(*c, out);
    }
}

/* "auto|uring|threads" as "auto, uring, threads". */
static void put_choices(const char *choices, FILE *out)
{
    for (const char *c = choices; *c; c++)
        fputs(*c == '|' ? ", " : (char[]){*c, 0}, out);
}

/* "one of auto, uring, threads; default auto; not in this build" */
static void put_accepted(const struct option_doc *o, FILE *out)
{
    static const char *const what[] = {"one of ", "0 or 1", "a size", "text", "folders"};
    fputs(what[o->kind], out);
    if (o->kind == SIZE && o->choices)
        fputs(" or one of ", out);
    if (o->choices)
        put_choices(o->choices, out);
    if (o->fallback)
        fprintf(out, "; default %s", o->fallback);
    if (o->status == LATER)
        fputs("; not in this build", out);
}

/* ---- settings ------------------------------------------------------------ */

/* Breaks the text before column 78, every line indented. */
static void put_wrapped(const char *text, int indent, FILE *out)
{
    while (*text) {
        size_t room = (size_t)(78 - indent), length = strlen(text);
        if (length > room)
            for (length = room; length && text[length] != ' '; length--)
                ;
        if (!length) /* one long word */
            length = strcspn(text, " ");
        fprintf(out, "%*s%.*s\n", indent, "", (int)length, text);
        text += length;
        text += strspn(text, " ");
    }
}

static void option_text(const struct option_doc *o, FILE *out)
{
    fprintf(out, "  TERRACE_%s=%s\n", o->name, o->example);
    put_wrapped(o->meaning, 6, out);
    fputs("      (", out);
    put_accepted(o, out);
    fputs(")\n", out);
}

static void option_man(const struct option_doc *o, FILE *out)
{
    fprintf(out, ".TP\n\\fBTERRACE_%s\\fR=\\fI", o->name);
    put_text(DOCS_MAN, o->example, out);
    fputs("\\fR\n", out);
    put_text(DOCS_MAN, o->meaning, out);
    fputs("\n(", out);
    put_accepted(o, out);
    fputs(").\n", out);
}

static void option_readme(const struct option_doc *o, FILE *out)
{
    fprintf(out, "| `TERRACE_%s` | `%s` | ", o->name, o->example);
    put_text(DOCS_README, o->meaning, out);
    fputs(" (", out);
    put_accepted(o, out);
    fputs(") |\n", out);
}

void docs_options(enum docs_format format, FILE *out)
{
    static void (*const put[])(const struct option_doc *, FILE *) = {option_text, option_man,
                                                                     option_readme};
    if (format == DOCS_README)
        fputs("| variable | example | meaning |\n| --- | --- | --- |\n", out);
    for (int i = 0; i < OPTIONS; i++)
        put[format](&options[i], out);
}

/* ---- errors -------------------------------------------------------------- */

void docs_errors(enum docs_format format, FILE *out)
{
    static const char *const row[] = {
        [DOCS_TEXT] = "  %-20s %4d  %s\n",
        [DOCS_MAN] = ".TP\n\\fB%s\\fR (\\-%d)\n%s.\n",
        [DOCS_README] = "| `%s` | -%d | %s |\n",
    };
    if (format == DOCS_README)
        fputs("| error | value | meaning |\n| --- | --- | --- |\n", out);
    for (int i = 0; i < ERRORS; i++)
        fprintf(out, row[format], errors[i].name,
                format == DOCS_TEXT ? -errors[i].value : errors[i].value, errors[i].text);
}

/* ---- source files -------------------------------------------------------- */

/* Copies the first sentence of a source file, from behind "name.c - " to its
 * full stop or the end of the comment, as one line. */
static void put_sentence(FILE *file, FILE *out)
{
    char text[1024], *from, *end;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    from = strstr(text, " - ");
    if (!from)
        return;
    from += strlen(" - ");
    end = strstr(from, "*/");
    for (char *c = from; *c && (!end || c < end); c++) {
        if (*c == '.' && strchr(" \n", c[1]))
            break;
        if (!strncmp(c, "\n * ", 4))
            c += 3, *c = ' ';
        fputc(*c, out);
    }
}

void docs_files(char *const *paths, FILE *out)
{
    fputs("| file | what it is |\n| --- | --- |\n", out);
    for (; *paths; paths++) {
        FILE *file = fopen(*paths, "re");
        if (!file)
            continue;
        fprintf(out, "| `%s` | ", *paths);
        put_sentence(file, out);
        fputs(" |\n", out);
        fclose(file);
    }
}

/* ---- filling in ---------------------------------------------------------- */

static void generate(enum docs_format format, char *const *paths, const char *marker, FILE *out)
{
    if (strstr(marker, "generated: files"))
        docs_files(paths, out);
    else if (strstr(marker, "generated: options"))
        docs_options(format, out);
    else if (strstr(marker, "generated: errors"))
        docs_errors(format, out);
}

int docs_fill(enum docs_format format, char *const *paths, FILE *in, FILE *out)
{
    char *line = NULL;
    size_t room = 0;
    bool inside = false;
    while (getline(&line, &room, in) > 0) {
        bool end = strstr(line, "end of generated");
        if (!inside || end)
            fputs(line, out);
        if (strstr(line, "generated: ")) {
            inside = true;
            generate(format, paths, line, out);
        } else if (end) {
            inside = false;
        }
    }
    free(line);
    return inside || ferror(in) ? EXIT_FAILED : EXIT_OK;
}
