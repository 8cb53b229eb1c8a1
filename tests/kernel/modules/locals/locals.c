// SPDX-License-Identifier: GPL-2.0
/* Local variables that are written by others; interrupts come while they are there, and later. */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/sched.h>

static int result;

static noinline void locals_fill(int *place, int number)
{
	*place = number;
	barrier();
}

static noinline int locals_spin(int number)
{
	mdelay(30);
	return number;
}

static noinline int locals_sum(int number)
{
	int local = 0;

	locals_fill(&local, number);
	if (number > 1)
		local += locals_sum(number - 1);
	return locals_spin(local);
}

static noinline int locals_sleep(int number)
{
	int local = 0;

	locals_fill(&local, number);
	msleep(30);
	locals_fill(&local, number + 1);
	return local;
}

static noinline void locals_die(int number)
{
	int local = 0;

	locals_fill(&local, number);
	*(volatile int *)8 = local;
}

/* Has `lock incl`. */
static noinline void locals_increment(atomic_t *place)
{
	atomic_inc(place);
}

static noinline int locals_count(int number)
{
	atomic_t local = ATOMIC_INIT(0);

	while (number--)
		locals_increment(&local);
	return atomic_read(&local);
}

static int locals_count_write(const char *text, const struct kernel_param *parameter)
{
	int number;

	if (kstrtoint(text, 0, &number))
		return -EINVAL;
	result = locals_count(number);
	return 0;
}

static const struct kernel_param_ops locals_count_ops = { .set = locals_count_write };
module_param_cb(count, &locals_count_ops, NULL, 0200);

static int locals_write(const char *text, const struct kernel_param *parameter)
{
	int number;

	if (kstrtoint(text, 0, &number))
		return -EINVAL;
	if (number < 0)
		locals_die(number);
	result = number > 9 ? locals_sleep(number) : locals_sum(number);
	result = locals_spin(result);
	return 0;
}

static const struct kernel_param_ops locals_ops = { .set = locals_write };
module_param_cb(run, &locals_ops, NULL, 0200);

MODULE_LICENSE("GPL");
