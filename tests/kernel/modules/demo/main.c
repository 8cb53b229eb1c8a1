// SPDX-License-Identifier: MIT
/* A module that does as its parameters say. */
#include <linux/module.h>

#include "demo.h"

static int answer = 1;
module_param(answer, int, 0644);
static char *label = "none";
module_param(label, charp, 0444);
static int numbers[4];
static int numbered;
module_param_array(numbers, int, &numbered, 0444);
static bool crash;
module_param(crash, bool, 0444);
static int fail;
module_param(fail, int, 0444);

static int demo_total = 7;
static int *demo_nothing;

static noinline int __init demo_prepare(int amount)
{
	if (crash)
		*demo_nothing = amount; /* the oops */
	return amount + 1;
}

static int __init demo_init(void)
{
	int prepared = demo_prepare(answer);

	demo_total = demo_add(demo_total, prepared);
	if (fail)
		pr_err("demo: told to fail with %d\n", fail);
	return -fail;
}

static void __exit demo_exit(void)
{
	demo_total = demo_add(demo_total, -1);
}

module_init(demo_init);
module_exit(demo_exit);
MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("A module of the tests");
