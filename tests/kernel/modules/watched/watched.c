// SPDX-License-Identifier: GPL-2.0
/* Variables that are written one after the other: echo 5 > /sys/module/watched/parameters/all */
#include <linux/module.h>
#include <linux/sched.h>

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

static int masked_before, masked_within, masked_behind;

static noinline void watched_masked(int n)
{
	WRITE_ONCE(masked_before, n);
	local_irq_disable();
	WRITE_ONCE(masked_within, n); /* within */
	local_irq_enable(); /* enable */
	WRITE_ONCE(masked_behind, n); /* behind */
	local_irq_enable(); /* again */
	schedule_timeout_uninterruptible(1); /* sleep */
	WRITE_ONCE(masked_before, n + 1); /* last */
}

static int masked_set(const char *text, const struct kernel_param *param)
{
	int n, error = kstrtoint(text, 0, &n);

	if (!error)
		watched_masked(n);
	return error;
}

static const struct kernel_param_ops masked_ops = { .set = masked_set };
module_param_cb(masked, &masked_ops, NULL, 0200);
MODULE_LICENSE("GPL");
