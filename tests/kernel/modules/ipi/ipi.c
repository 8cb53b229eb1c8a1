// SPDX-License-Identifier: GPL-2.0
/* Panics in an interrupt of another CPU. */
#include <linux/module.h>
#include <linux/smp.h>

static noinline void in_ipi(void *arg)
{
	panic("from an interrupt");
}

static int __init ipi_init(void)
{
	smp_call_function_single(!raw_smp_processor_id(), in_ipi, NULL, true);
	return 0;
}

module_init(ipi_init);
MODULE_LICENSE("GPL");
