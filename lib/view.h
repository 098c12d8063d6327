/* view.h - handles for tiers whose memory is not used by addresses.
 * May call: core.h, acquire.h, the backend's table. */
#ifndef TERRACE_LIB_VIEW_H
#define TERRACE_LIB_VIEW_H

#include "acquire.h"
#include "core.h"

/* What acquire gives for the copy, and release knows it by. */
void *view_address(const struct copy *c);
/* Makes the views that the request's copies lack. 1: gave up the lock to do so; 0:
 * there was nothing to do. Errors: as terrace_backend.view. */
int  view_make_locked(const struct request *q);
/* The copy's memory is about to go. */
void view_drop_locked(struct copy *c);
/* Ends those that were dropped; without the lock, by the lane's thread or the last. */
struct view *views_dropped_locked(struct tier *tier);
void views_end(struct tier *tier, struct view *list);

#endif
