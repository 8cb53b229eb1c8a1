// SPDX-License-Identifier: GPL-2.0
/* Operands of expressions: for tests/kernel/test_arithmetic.py. */
#include <linux/module.h>

unsigned __int128 tall = (unsigned __int128)1 << 64; /* its lower half is 0 */
__int128 nothing;
int numbers[] = { 10, 11, 12 };
char empty[8];
s64 least = S64_MIN;

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

struct broad {
	u64 u33:33;
	s64 s63:63;
	u64 u63:63;
	enum wide e40:40;
	unsigned __int128 x40:40;
} broad = {
	.u33 = 0x1fffffff5ull, .s63 = -0x3ffffffffffffff3, .u63 = 0x7ffffffffffffff1ull,
	.e40 = W_WIDE, .x40 = 0xfedcba9876ull,
};

/* To gdb a value of these has no padding at its end. */
struct open { long first; int n; char flex[]; };
struct within { int a; struct open open; };
union either { struct open open; struct { long of, two; } one; };
typedef struct { long first; char flex[]; } closed;
struct open opened[2] __attribute__((aligned(16)));
struct open *opens = opened;
struct within holder, *holds = &holder;
union either *eithers;
closed *closes;
const struct within *constant = &holder;

/* What gcc computes. */
struct computed {
	const char *text;
	long value;
	bool negative;
} computed[4096];
int n_computed;

static noinline void note(const char *text, long value, bool negative)
{
	computed[n_computed++] = (struct computed){ text, value, negative };
}

#define COMPUTE(e) note(#e, (long)(e), (e) + 0 < 0)
#define UNARY(f) \
	COMPUTE(f), COMPUTE(-f), COMPUTE(~f), COMPUTE(+f - 6), COMPUTE(!f), COMPUTE(-f >> 3), \
	COMPUTE(f << 1), COMPUTE(f << 8), COMPUTE(f << 30), COMPUTE((f << 8) >> 8), \
	COMPUTE(f >> 1), COMPUTE(f >> 30), COMPUTE(f << (f & 7)), COMPUTE((f + 1) + 1), \
	COMPUTE(-f == f), COMPUTE(~f + 1 == -f), COMPUTE((u64)f + 1), COMPUTE((f) * 3 / 3), \
	COMPUTE(sizeof(f + 1)), COMPUTE(sizeof(-f)), COMPUTE(1 << (f & 3)), \
	COMPUTE(numbers[f & 1]), COMPUTE(*(numbers + (f & 1)))
#define BINARY(f, g) \
	COMPUTE(f + g), COMPUTE(f - g), COMPUTE(g - f), COMPUTE(f * g), COMPUTE(f / g), \
	COMPUTE(g / f), COMPUTE(f % g), COMPUTE(g % f), COMPUTE(f & g), COMPUTE(f | g), \
	COMPUTE(f ^ g), COMPUTE(f == g), COMPUTE(f != g), COMPUTE(f < g), COMPUTE(g < f), \
	COMPUTE(f <= g), COMPUTE(f >= g), COMPUTE(numbers[0] ? f : g), \
	COMPUTE(!numbers[0] ? f : g), COMPUTE((f + g) - g == f), COMPUTE(-1 < f - g || f < ~g)
#define WITH_ALL(f) \
	UNARY(f), BINARY(f, -1), BINARY(f, 7u), BINARY(f, -5L), BINARY(f, 9ul), \
	BINARY(f, fields.long32), BINARY(f, fields.w40), BINARY(f, fields.sw36), \
	BINARY(f, broad.e40), BINARY(f, Q_SEVEN)

static noinline void compute(void)
{
	WITH_ALL(fields.w40);
	WITH_ALL(fields.sw36);
	WITH_ALL(fields.long32);
	WITH_ALL(fields.u3);
	WITH_ALL(broad.u33);
	WITH_ALL(broad.s63);
	WITH_ALL(broad.u63);
	WITH_ALL(broad.e40);
	UNARY(broad.x40);
	BINARY(broad.x40, -1);
	BINARY(broad.x40, fields.sw36);
	COMPUTE(sizeof(*opens) + sizeof *holds + sizeof(holder.open) + sizeof *eithers);
	COMPUTE(sizeof(holds->open) + sizeof(constant->open) + sizeof opened[1] + sizeof *closes);
	COMPUTE((long)(&holds->open + 1) - (long)holds);
	COMPUTE((long)&(&constant->open)[1] - (long)constant);
	COMPUTE((long)(&holder + 1) - (long)holds);
	COMPUTE((long)(&opens[1] + 1) - (long)opens);
	COMPUTE((long)&(&opens[1])[-1].n - (long)opens);
	COMPUTE((long)(&eithers->open + 1) + (long)(&eithers->one + 1) + (long)(&*closes + 1));
	COMPUTE(&opens[1] - opens);
	COMPUTE((long)(opens + 1) - (long)opens);
	COMPUTE((long)(1 + opens) - (long)opens);
	COMPUTE((long)(opens + 1 - 1) - (long)opens);
	COMPUTE((long)(opens - 1) - (long)opens);
	COMPUTE((long)&opens[1] - (long)opens);
	COMPUTE((long)&opened[1] - (long)opened);
	COMPUTE((long)(opened + 1) - (long)opened);
	COMPUTE(opens + 1 - opens);
	COMPUTE(opens - &opens[1]);
	COMPUTE((struct open *)&opens[1] - (struct open *)opens);
	COMPUTE(opens[1].n + (opens + 1)->n + (*(opens + 1)).n + (1 + opens)->n);
	COMPUTE((&opens[1] - 1)->n + opened[1].n + (opened + 1)->n);
	COMPUTE(&opens[1] > opens && opens + 1 == &opens[1]);
}

noinline long probe(int n, s8 small, __int128 wide)
{
	barrier();
	return n + small + wide;
}

static int set_step(const char *text, const struct kernel_param *kp)
{
	if (!n_computed)
		compute();
	pr_info("arith: %ld\n", probe(3, -2, -5));
	return 0;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);
MODULE_LICENSE("GPL");
