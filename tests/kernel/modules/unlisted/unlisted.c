// SPDX-License-Identifier: GPL-2.0
/* A module for which objtool makes no ORC tables: the kernel cannot unwind its functions. */
#include <linux/completion.h>
#include <linux/module.h>

static DECLARE_COMPLETION(completion);

static noinline long unlisted_inner(long number)
{
	wait_for_completion(&completion);
	return number + 1;
}

static noinline long unlisted_outer(long number)
{
	long numbers[4] = { number, number + 1, number + 2 };

	OPTIMIZER_HIDE_VAR(number);
	numbers[number & 3] += unlisted_inner(number);
	return numbers[1] + numbers[2];
}

static int set_wait(const char *text, const struct kernel_param *unused)
{
	return unlisted_outer(text[0]) ? 0 : -EINVAL;
}

static const struct kernel_param_ops ops = { .set = set_wait };
module_param_cb(wait, &ops, NULL, 0200);

MODULE_LICENSE("GPL");
