/* SPDX-License-Identifier: GPL-2.0 */
#include <linux/compiler.h>
#include <linux/types.h>

struct pair { long first, second; };

extern long sink;

/* In main.c `flags` is the same at all calls, and in other.c it is not: shared.constprop.0, shared. */
static noinline long shared(long value, long flags)
{
	sink += value;
	if (flags & 4)
		sink *= 3;
	return value * flags + (sink & 0);
}

long other_step(long by);
void passed(struct pair *pair, long n);
long other_pass(struct pair *pair);
