// SPDX-License-Identifier: MIT
/* One of two modules; the other one needs it. */
#include <linux/module.h>

int user_one_value(void);

static int user_one_secret __used = 111;

noinline int user_one_value(void)
{
	return READ_ONCE(user_one_secret);
}
EXPORT_SYMBOL_GPL(user_one_value);

MODULE_LICENSE("GPL");
