// SPDX-License-Identifier: MIT
#include <linux/module.h>

int user_one_value(void);

static int user_two_sum;

static int __init user_two_init(void)
{
	user_two_sum = 1000 + user_one_value();
	return 0;
}

static void __exit user_two_exit(void)
{
	pr_info("user-two: %d\n", user_two_sum);
}

module_init(user_two_init);
module_exit(user_two_exit);
MODULE_LICENSE("GPL");
