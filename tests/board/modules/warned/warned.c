// SPDX-License-Identifier: MIT
/* A kernel that reports something of itself: what=1, a WARN; what=2, an oops. */
#include <linux/module.h>

static int what;
module_param(what, int, 0);

static volatile int *nowhere;

static noinline void warned_null(void)
{
	*nowhere = 1;
}

static int __init warned_init(void)
{
	WARN_ON(what == 1);
	if (what == 2)
		warned_null();
	return 0;
}

static void __exit warned_exit(void)
{
}

module_init(warned_init);
module_exit(warned_exit);
MODULE_LICENSE("Dual MIT/GPL");
