// SPDX-License-Identifier: GPL-2.0
/* Values at the edges of what a debugger reads: for tests/kernel/test_edges.py. */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include "edges.h"

struct record record;
struct scalars scalars = {
	.byte = 1, .sbyte = 1, .half = 1, .word = 1, .sword = 1, .quad = 1, .squad = 1, .letter = 'a',
	.yes = true, .colour = GREEN, .grade = GRADE_HIGH, .pointer = &record,
	.three = 5, .all = 0xfffffffe, .forty = 0xffffffffff, .tilt = -3, .paint = BLUE,
};
static int major;		/* as in init/initramfs.c, whose memory is freed */
static int shared;		/* as in other.c */
static int never = 100;		/* never written: gcc leaves no variable of it */
static DEFINE_PER_CPU(int, edge_count);
static DEFINE_PER_CPU(struct two, edge_pair);
static long sink;

/* Its first instruction is scale()'s, which has a `n` and a `part` of its own. */
static __always_inline long scale(struct two *part, int n)
{
	return READ_ONCE(part->second) * n;
}
noinline long outer(struct three *part, int n)
{
	long result = scale((struct two *)&part->y, n + 100);

	sink++;
	return result + n;
}

/* arch/x86/kernel/hpet.c has a variable of this name. */
static __attribute__((noipa)) int irq_handler(int irq)
{
	return sink += irq;
}

noinline long by_value(struct one a, struct two b, struct three c)
{
	barrier();
	return a.a + b.first + b.second + c.x + c.y + c.z;
}
noinline int of_each(char a, bool yes, enum grade grade, u8 small, const char *text)
{
	barrier();
	return a + yes + grade + small + text[0];
}
noinline struct one give_one(int x) { struct one v = { x }; barrier(); return v; }
noinline struct two give_two(long x) { struct two v = { x, x + 1 }; barrier(); return v; }
noinline struct three give_three(long x) { struct three v = { x, x + 1, x + 2 }; barrier(); return v; }
noinline unsigned __int128 give_wide(u64 x) { barrier(); return (unsigned __int128)x << 64 | 7; }
noinline u8 give_u8(int x) { barrier(); return x; }
noinline s8 give_s8(int x) { barrier(); return x; }
noinline bool give_bool(int x) { barrier(); return x > 3; }
noinline long give_long(int x) { barrier(); return x; }
noinline void *give_pointer(int x) { barrier(); return x ? &record : NULL; }

/* Statics of its own: per-CPU ones, and one each as the file's and as other files of the kernel's. */
static __attribute__((noipa)) long own_statics(int n)
{
	static DEFINE_PER_CPU(int, own_count);
	static DEFINE_PER_CPU(struct two, own_pair);
	static int shared = 70, initialized = 71;
	int local = n;
	int __maybe_unused major = __builtin_popcountl(READ_ONCE(sink)); /* gcc leaves nothing of it */

	barrier();
	this_cpu_add(own_count, n);
	this_cpu_write(own_pair.second, 56);
	if (n) {
		static int shared = 80;

		shared++;
		initialized++; /* in the inner block */
		barrier();
		local += shared;
	}
	shared += n;
	return local + shared + initialized;
}

/* Each ends by a jump into the other, where the kernel itself is built without such jumps, too. */
#define JUMPS noinline __attribute__((noipa, optimize("optimize-sibling-calls,omit-frame-pointer")))
long chain(long n);
static JUMPS long chain_link(long n)
{
	barrier();
	return chain(n - 1);
}
JUMPS long chain(long n)
{
	barrier();
	return n ? chain_link(n) : 99;
}

noinline void set_scalars(struct scalars *s)
{
	WRITE_ONCE(s->byte, 200);
	WRITE_ONCE(s->sbyte, -7);
	WRITE_ONCE(s->half, 65530);
	WRITE_ONCE(s->word, 0xfffffff0);
	WRITE_ONCE(s->sword, -9);
	WRITE_ONCE(s->quad, ~0ull);
	WRITE_ONCE(s->squad, -1);
	WRITE_ONCE(s->letter, -3);
	WRITE_ONCE(s->yes, false);
	WRITE_ONCE(s->no, true);
	WRITE_ONCE(s->colour, BLUE);
	WRITE_ONCE(s->grade, GRADE_LOW);
	WRITE_ONCE(s->pointer, ERR_PTR(-ENOMEM));
}

static noinline long step(int n)
{
	struct three three = { 1, 2, 3 };

	this_cpu_inc(edge_count);
	this_cpu_write(edge_pair.second, 55);
	switch (n) {
	case 1: return outer(&three, 4);
	case 2: return irq_handler(7);
	case 3: return by_value((struct one){1}, (struct two){2, 3}, three);
	case 4: return of_each('x', true, GRADE_NONE, 200, "beta");
	case 5: return give_one(5).a + give_two(6).second + give_three(7).z;
	case 6: return give_wide(77) >> 64;
	case 7: return give_u8(200) + give_s8(-100) + give_bool(4) + (give_pointer(1) != NULL);
	case 8: return give_long(21);
	case 9: set_scalars(&scalars); return 0;
	case 10: return own_statics(3);
	case 11: return chain(2) + 1;
	}
	return -EINVAL;
}

static int set_step(const char *text, const struct kernel_param *kp)
{
	int n, error = kstrtoint(text, 0, &n);

	major++;
	if (shared++ > never)
		shared = 0;
	if (!error)
		pr_info("edges: step %d gives %ld\n", n, step(n) + 0 * other_step(n));
	return error;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);

static int __init edges_init(void)
{
	record = (struct record){
		.on = 1, .level = 5, .tilt = -3, .wide = 0x123456789aULL, .low = 1, .high = 2,
		.grade = GRADE_LOW, .port = 8080, .tag = { 'W', 'X', 'Y', 'Z' }, .yes = true,
		.huge = (unsigned __int128)3 << 64 | 4, .minus = -5, .bad = ERR_PTR(-ENOMEM),
		.op = irq_handler, .name = "the record", .grid = { { 0 }, { 0, 0, 12 } },
	};
	major = 41;
	record.table = kzalloc(sizeof(*record.table) + 3 * sizeof(struct row), GFP_KERNEL);
	if (!record.table)
		return -ENOMEM;
	record.table->n = 3;
	record.table->rows[2].value = 0xdeadbeef;
	record.opaque = &record.table->rows[2];
	return 0;
}
static void __exit edges_exit(void)
{
	kfree(record.table);
}
module_init(edges_init);
module_exit(edges_exit);
MODULE_LICENSE("GPL");
