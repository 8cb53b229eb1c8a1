// SPDX-License-Identifier: MIT
#include <linux/module.h>

#include "demo.h"

noinline int demo_add(int total, int amount)
{
	return total + amount;
}
EXPORT_SYMBOL_GPL(demo_add);
