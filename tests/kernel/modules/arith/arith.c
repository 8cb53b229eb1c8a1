// SPDX-License-Identifier: GPL-2.0
/* Operands of expressions: for tests/kernel/test_arithmetic.py. */
#include <linux/module.h>

unsigned __int128 tall = (unsigned __int128)1 << 64; /* its lower half is 0 */
__int128 nothing;
int numbers[] = { 10, 11, 12 };
char empty[8];

enum positive { Q_ZERO, Q_ONE, Q_SEVEN = 7 };
enum negative { N_NEG = -3, N_TEN = 10 };
enum large { L_ONE = 1, L_LARGE = 0xf0000000 };
enum wide { W_ONE = 1, W_WIDE = 0x100000001ULL };
struct fields {
	unsigned int u3:3, u1:1;
	int s4:4;
	u64 w40:40;
	s64 sw36:36;
	u32 u31:31, u32:32;
	u64 long32:32;
	bool yes:1;
	enum positive q:4;
	enum positive whole;
} fields = {
	.u3 = 5, .u1 = 1, .s4 = -3, .w40 = 0xffffffffffull, .sw36 = -5, .u31 = 0x7ffffff0,
	.u32 = 0xfffffffe, .long32 = 0xfffffffe, .yes = true, .q = Q_SEVEN, .whole = Q_ONE,
};
enum negative negative; /* without a variable, gcc leaves no enumerators */
enum large large;
enum wide wider;

noinline long probe(int n, s8 small, __int128 wide)
{
	barrier();
	return n + small + wide;
}

static int set_step(const char *text, const struct kernel_param *kp)
{
	pr_info("arith: %ld\n", probe(3, -2, -5));
	return 0;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);
MODULE_LICENSE("GPL");
