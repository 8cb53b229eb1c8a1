// SPDX-License-Identifier: GPL-2.0
// A module that calls the kernel from its init and from its text, and has variables.
#include <linux/kernel.h>
#include <linux/math.h>
#include <linux/module.h>
#include <linux/percpu.h>

int first_number = 4711;
DEFINE_PER_CPU(int, first_on_cpu) = 12;
static int first_in_init __initdata = 7;
static struct list_head *first_list_in_init __initdata = &THIS_MODULE->list;

noinline int first_call(int n)
{
	return int_pow(n, 2) + first_number;
}

static int set_call(const char *text, const struct kernel_param *parameter)
{
	first_number++;
	this_cpu_inc(first_on_cpu);
	return first_call(3) > 0 && *text != '-' ? 0 : -EINVAL;
}

static const struct kernel_param_ops ops = { .set = set_call };
module_param_cb(call, &ops, NULL, 0200);

static int __init first_init(void)
{
	return READ_ONCE(first_list_in_init) && int_pow(READ_ONCE(first_in_init), 3) == 343 ?
	       0 : -EINVAL;
}

static void __exit first_exit(void)
{
}

module_init(first_init);
module_exit(first_exit);
MODULE_LICENSE("GPL");
