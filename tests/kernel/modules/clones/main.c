// SPDX-License-Identifier: GPL-2.0
/* Functions of which gcc makes copies: for tests/kernel/test_clones.py. */
#include <linux/module.h>
#include "clones.h"

long sink;
static struct pair pairs[2] = { { 10, 20 }, { 10, 20 } };

/* masked.constprop.0: `flags` is the same at all calls. */
static noinline long masked(long value, int flags)
{
	sink += value;
	if (flags & 4)
		sink *= 3;
	return value * flags;
}

/* second_of.constprop.0.isra.0: of `pair` a member is passed, and `unused` is not. */
static noinline long second_of(const struct pair *pair, int unused, long n)
{
	sink += n;
	return pair->second * n;
}

/* noted.isra.0: no caller uses what it returns. */
static noinline int noted(const struct pair *pair, int n)
{
	sink += pair->first * n;
	return sink > 5 ? -EINVAL : n;
}

/* summed.part.0: the test of `pair` is inlined in one() and two(). */
static long summed(struct pair *pair, long n)
{
	long i;

	if (likely(!pair))
		return -EFAULT;
	for (i = 0; i < n; i++) {
		sink += pair->first * i;
		pair->second ^= sink & 0;
		if (sink < 0)
			pr_info("clones: %ld\n", sink);
	}
	if (sink < -5)
		pr_info("clones: %ld %ld\n", pair->first, pair->second);
	return pair->second + n;
}
noinline long one(struct pair *pair, long n) { sink ^= 3; return summed(pair, n) + 1; }
noinline long two(struct pair *pair, long n) { sink ^= 5; return summed(pair, n + 1) * 2; }

/* passed(), and passed.part.0, which three() and four() call as well. */
void passed(struct pair *pair, long n)
{
	long i;

	if (likely(!pair))
		return;
	for (i = 0; i < n; i++) {
		sink += pair->first * i;
		pair->second ^= sink & 0;
		if (sink < 0)
			pr_info("clones: %ld\n", sink);
	}
	pr_info("clones: passed %ld %ld\n", pair->first, pair->second);
}
noinline long three(struct pair *pair, long n) { sink ^= 3; passed(pair, n); return sink & 0; }
noinline long four(struct pair *pair, long n) { sink ^= 5; passed(pair, n + 1); return sink & 0; }

/* rare() and rare.cold. */
static noinline __cold void complain(long n) { sink -= n; pr_info("clones: rare\n"); }
noinline long rare(long n)
{
	if (unlikely(n == 7)) {
		complain(n);
		complain(3);
		return -ERANGE;
	}
	sink += n;
	return n * 2;
}

static noinline long step(int n)
{
	struct pair *pair = &pairs[n & 1];

	switch (n) {
	case 1: return masked(5, 4) + masked(6, 4);
	case 2: return shared(5, 6) + shared(7, 6) + other_step(1);
	case 3: return second_of(pair, n, 3) + second_of(pair, sink, 5);
	case 4: noted(pair, 3); noted(pair, 4); return 0;
	case 5: return one(pair, 2) + two(NULL, 2) + two(pair, 3);
	case 6: return other_pass(pair) + three(pair, 2) + four(NULL, 2) + four(pair, 3);
	case 7: return rare(3) + rare(7);
	}
	return -EINVAL;
}

static int set_step(const char *text, const struct kernel_param *kp)
{
	int n, error = kstrtoint(text, 0, &n);

	if (!error)
		pr_info("clones: step %d gives %ld\n", n, step(n));
	return error;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);
MODULE_LICENSE("GPL");
