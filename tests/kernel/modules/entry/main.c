// SPDX-License-Identifier: GPL-2.0
/* What is read at a function's entry: for tests/kernel/test_entry_values.py. */
#include <linux/err.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>
#include "entry.h"

typedef int four __attribute__((vector_size(16)));

union fraction { float f; u32 raw; } fraction = { .raw = 0x3fc00000 };	/* 1.5 */
struct fractions { float f; int n; } fractions = { 1.5f, 3 };
double large = 2.5, several[2] = { 1.5, 2.5 };
long double longest = 2.5L;
_Complex float plane;
four lanes = { 1, 2, 3, 4 };

struct three { long x, y, z; };
struct three filled = { 100, 200, 300 };	/* a local of with_local() has the name, too */
unsigned __int128 tall = (unsigned __int128)1 << 64, nothing;
unsigned __int128 *talls[2] = { &tall, &nothing };

noinline __attribute__((noipa)) void fill(struct three *three, int n)
{
	three->x = n;
	three->y = 2 * n;
	three->z = 3 * n;
}

noinline __attribute__((noipa)) int with_local(int n)
{
	struct three filled;
	int *pointer = &n, number = 0;
	static int counted;

	fill(&filled, n);
	asm volatile("" : "+m"(number), "+r"(pointer));
	counted += n;
	number += *pointer;
	return filled.x + filled.y + number;
}

noinline __attribute__((noipa)) int two(int x, int y)
{
	return x + y;
}

/* Texts */

static char *page; /* what is behind it is not mapped */
static char text[5000], names[2][8] = { "one", "two" };
struct texts { char *name; void *pointer; };
union either { char *name; long number; void *pointers[3]; };

noinline __attribute__((noipa)) int take_text(const char *s)
{
	return s != NULL;
}

noinline __attribute__((noipa)) const char *give_text(long n)
{
	return n > 0 ? text : n ? ERR_PTR(n) : NULL;
}

noinline __attribute__((noipa)) struct texts give_texts(void)
{
	return (struct texts){ names[1], ERR_PTR(-ENOMEM) };
}

noinline __attribute__((noipa)) int take_texts(struct texts texts, union either either)
{
	return texts.name != either.name;
}

static noinline __attribute__((noipa)) int same(int n)
{
	return n + 1;
}

/* Inlined in other.c. */
static noinline __attribute__((noipa)) int inlined_elsewhere(int n)
{
	return n + 1;
}

/* What loads the count is inlined. gcc 12 has its line begin at the function's first instruction,
   which saves a register. */
static noinline __attribute__((noipa)) int where(int n)
{
	WARN_ON_ONCE(in_interrupt());
	WARN_ON_ONCE(preempt_count() > n);
	return same(n) + n;
}

/* call_timer_fn() calls it. */
static noinline __attribute__((noipa)) void timed(struct timer_list *unused)
{
}
static DEFINE_TIMER(timer, timed);

static void set_text(int size)
{
	memset(text, 0, sizeof(text));
	memset(text, 'p', size);
}

static noinline long step(int n)
{
	switch (n) {
	case 1: return two(0, 0) + two(3, 0) + two(0, 4) + two(3, 4);
	case 2: return with_local(5);
	case 3: return same(copied(inlined_elsewhere(0)) - 1) * 1000 + copied(0) + other_step(1);
	case 4: return take_text(names[0]) + take_text(page + 4096 - 10) + take_text(NULL);
	case 5: return give_text(1) != give_text(0) && give_text(-ENOMEM);
	case 6: give_texts(); return take_texts((struct texts){ names[0], ERR_PTR(-ENOMEM) },
				(union either){ .pointers = { names[1], ERR_PTR(-EIO), NULL } });
	case 7: return fpu_step();
	case 8: return where(3);
	case 9: return mod_timer(&timer, jiffies + 1);
	}
	if (n < 100)
		return -EINVAL;
	set_text(n); /* so many characters */
	return take_text(text);
}

static int set_step(const char *value, const struct kernel_param *kp)
{
	int n, error = kstrtoint(value, 0, &n);

	if (!error)
		pr_info("entry: step %d gives %ld\n", n, step(n));
	return error;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);

static int __init entry_init(void)
{
	page = vmalloc(PAGE_SIZE);
	if (!page)
		return -ENOMEM;
	memset(page, 'q', PAGE_SIZE);
	set_text(5);
	return 0;
}
static void __exit entry_exit(void)
{
	del_timer_sync(&timer);
	vfree(page);
}
module_init(entry_init);
module_exit(entry_exit);
MODULE_LICENSE("GPL");
