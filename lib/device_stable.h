/* device_stable.h - address-stable memory of devices: what the rest of the core needs
 * of it. May call: core.h. */
#ifndef TERRACE_LIB_DEVICE_STABLE_H
#define TERRACE_LIB_DEVICE_STABLE_H

#include "core.h"

/* Whether terrace_malloc() can be served from a device's tier. */
bool device_stable_can(const struct tier *tier);

/* As the public functions, of a tier that can; device_free() and device_has() are false
 * where the address is not in such memory. */
void *device_alloc(struct tier *tier, size_t bytes, const terrace_tensor_attr *attr);
bool device_free(struct terrace *m, void *p);
bool device_has(struct terrace *m, const void *p);
int device_advise(struct terrace *m, void *p, size_t bytes, int advice, terrace_tier which);
int device_safepoint(struct tier *tier, void *stream);

/* What serves it, for people; NULL before the first call. */
const char *device_stable_engine_locked(const struct tier *tier);
/* Whether other rules allow what there is where it is, and has it obey them: as
 * stable_rules_fit_locked() and stable_rules_adopt_locked(). */
int device_rules_fit_locked(struct terrace *m, struct rules *rules);
void device_rules_adopt_locked(struct terrace *m, struct rules *rules);
void device_stable_close(struct terrace *m); /* gives all of it back */

#endif
