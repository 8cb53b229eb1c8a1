// SPDX-License-Identifier: GPL-2.0
/* Instructions that the kernel patches as it runs: a jump label and a static call, each the first
 * of its function. `echo 1 > /sys/module/patched/parameters/switched` patches both. */
#include <linux/jump_label.h>
#include <linux/module.h>
#include <linux/static_call.h>

static DEFINE_STATIC_KEY_FALSE(key);

static __attribute__((noipa)) int first(int number)
{
	return number * 3;
}

static __attribute__((noipa)) int second(int number)
{
	return number * 5;
}

DEFINE_STATIC_CALL(calculate, first);

static __attribute__((noipa)) int labelled(int number)
{
	if (static_branch_unlikely(&key))
		return number + 100;
	return number;
}

static __attribute__((noipa)) int called(int number)
{
	return static_call(calculate)(number) + 1;
}

static int patched_sums;

static int call(const char *text, const struct kernel_param *unused)
{
	WRITE_ONCE(patched_sums, labelled(1) * 1000 + called(2));
	return 0;
}

static int set_switched(const char *text, const struct kernel_param *unused)
{
	bool on = text[0] == '1';

	if (on)
		static_branch_enable(&key);
	else
		static_branch_disable(&key);
	static_call_update(calculate, on ? second : first);
	return 0;
}

static const struct kernel_param_ops call_ops = { .set = call };
module_param_cb(call, &call_ops, NULL, 0200);

static const struct kernel_param_ops switched_ops = { .set = set_switched };
module_param_cb(switched, &switched_ops, NULL, 0200);

MODULE_LICENSE("GPL");
