// SPDX-License-Identifier: GPL-2.0
#include <linux/module.h>
#include "entry.h"

/* main.c has one of this name, too. */
static noinline __attribute__((noipa)) int same(int n)
{
	return n + 100;
}

long other_step(int n)
{
	return same(n) + copied(n);
}
