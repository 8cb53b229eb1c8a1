// SPDX-License-Identifier: GPL-2.0
/* A function that is inlined into the module's init, whose memory is freed, and elsewhere. */
#include <linux/module.h>
#include <linux/moduleparam.h>

static int total;

static __always_inline void copies_add(int number)
{
	WRITE_ONCE(total, total + number);
	barrier();
	WRITE_ONCE(total, total * 3);
}

static int copies_set(const char *text, const struct kernel_param *parameter)
{
	copies_add(2);
	return 0;
}

static const struct kernel_param_ops copies_ops = { .set = copies_set };
module_param_cb(run, &copies_ops, NULL, 0200);

static int __init copies_init(void)
{
	copies_add(1);
	return 0;
}

static void __exit copies_exit(void)
{
}

module_init(copies_init);
module_exit(copies_exit);
MODULE_LICENSE("GPL");
