/* plugin.h - backends from outside: TERRACE_BACKENDS.
 * May call: core.h. */
#ifndef TERRACE_LIB_PLUGIN_H
#define TERRACE_LIB_PLUGIN_H

#include "core.h"

enum { MAX_PLUGINS = 16 };

/* Loads the libraries that TERRACE_BACKENDS names and gives their tables; how many,
 * or an error, whose sentence names the library and the remedy: ENOENT (no such
 * file, or it cannot be loaded), EPERM (others could have changed it), EINVAL (it is
 * no backend, or one of a newer interface). */
int plugins_load(const struct terrace *m, const terrace_backend *table[MAX_PLUGINS]);

#endif
