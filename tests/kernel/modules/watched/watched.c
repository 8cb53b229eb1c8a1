// SPDX-License-Identifier: GPL-2.0
/* Variables that are written one after the other: echo 5 > /sys/module/watched/parameters/all */
#include <linux/module.h>

static int watched_first, watched_second, watched_third;
static unsigned long watched_total;

/* Its first instruction writes memory, and is not emulated. */
static noinline void watched_count(void)
{
	asm volatile("lock incq %0" : "+m"(watched_total));
}

static noinline void watched_write(int n)
{
	WRITE_ONCE(watched_first, n); /* first */
	WRITE_ONCE(watched_second, n); /* second */
	WRITE_ONCE(watched_third, n); /* third */
}

static int watched_set(const char *text, const struct kernel_param *param)
{
	int n;

	if (kstrtoint(text, 0, &n))
		return -EINVAL;
	watched_write(n);
	watched_count();
	watched_count();
	return 0;
}

static const struct kernel_param_ops watched_ops = { .set = watched_set };
module_param_cb(all, &watched_ops, NULL, 0200);
MODULE_LICENSE("GPL");
