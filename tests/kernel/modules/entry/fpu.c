// SPDX-License-Identifier: GPL-2.0
/* Arguments in vector registers. */
#include <asm/fpu/api.h>
#include <linux/module.h>
#include "entry.h"

struct both { double d; long n; };

static noinline __attribute__((noipa)) int mixed(double d, int n, struct both both, float f, long last)
{
	return d + n + both.d + both.n + f + last;
}

static noinline __attribute__((noipa)) double give_double(int n)
{
	return n / 2.0;
}

static noinline __attribute__((noipa)) struct both give_both(int n)
{
	return (struct both){ n / 2.0, n };
}

long fpu_step(void)
{
	long sum;

	kernel_fpu_begin();
	sum = mixed(1.5, 20, (struct both){ 2.5, 300 }, 0.25, 4000) + give_double(5) + give_both(5).n;
	kernel_fpu_end();
	return sum;
}
