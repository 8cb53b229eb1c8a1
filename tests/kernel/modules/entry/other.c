// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include "entry.h"

/* main.c has one of this name, too. */
static noinline __attribute__((noipa)) int same(int n)
{
	return n + 100;
}

int other_sum;

static __always_inline void inlined_elsewhere(int n)
{
	WRITE_ONCE(other_sum, other_sum + n);
	barrier();
}

long other_step(int n)
{
	inlined_elsewhere(n);
	return same(n) + copied(n);
}
