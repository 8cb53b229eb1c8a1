// SPDX-License-Identifier: GPL-2.0
/* An argument that is in no register any more: the debug info has what the caller gave. */
#include <linux/module.h>

struct pair {
	long first, second;
};

static __attribute__((noipa)) long used(long n)
{
	barrier();
	return n + 1;
}

static __always_inline long inlined(struct pair *pair, long n)
{
	long sum = used(pair->first + n);

	sum = used(sum); /* behind the call */
	barrier();
	return sum + 1;
}

static __attribute__((noipa)) long function(struct pair *pair, long n)
{
	return inlined(pair, n) ^ n; /* n takes the register that the caller has pair in */
}

static __attribute__((noipa)) long caller(struct pair *pair, long n)
{
	long sum = function(pair, n);

	return sum + pair->second;
}

static __always_inline long tall(__int128 wide, unsigned __int128 high)
{
	long sum = used((long)wide + (long)(high >> 64)); /* the call */

	barrier();
	return sum + 1; /* behind it */
}

noinline __attribute__((noipa)) long wide_arguments(__int128 wide, unsigned __int128 high)
{
	return tall(wide, high) ^ (long)wide;
}

static int __init given_init(void)
{
	struct pair one = { 7, 8 }, other = { 9, 10 };

	caller(&one, 1);
	caller(&other, 2);
	wide_arguments(-5, (unsigned __int128)3 << 64 | 4);
	return 0;
}

module_init(given_init);
MODULE_LICENSE("GPL");
