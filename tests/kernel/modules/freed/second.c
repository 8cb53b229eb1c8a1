// SPDX-License-Identifier: GPL-2.0
// A module that takes the memory of another: other code and other numbers all over.
#include <linux/module.h>
#include <linux/percpu.h>

long second_numbers[64] = { [0 ... 63] = 0x1122334455667788 };
DEFINE_PER_CPU(long, second_on_cpu)[8] = { [0 ... 7] = 0x1122334455667788 };

#define STEP(n) sum = (sum ^ READ_ONCE(second_numbers[n])) * (2 * (n) + 3)
#define STEPS(n) STEP(n); STEP(n + 1); STEP(n + 2); STEP(n + 3)

noinline long second_sum(long sum)
{
	STEPS(0); STEPS(4); STEPS(8); STEPS(12); STEPS(16); STEPS(20); STEPS(24); STEPS(28);
	return sum;
}

static int set_call(const char *text, const struct kernel_param *parameter)
{
	second_numbers[63] = second_sum(3);
	return 0;
}

static const struct kernel_param_ops ops = { .set = set_call };
module_param_cb(call, &ops, NULL, 0200);

static int __init second_init(void)
{
	second_numbers[62] = second_sum(2) + this_cpu_read(second_on_cpu[0]);
	return 0;
}

static void __exit second_exit(void)
{
}

module_init(second_init);
module_exit(second_exit);
MODULE_LICENSE("GPL");
