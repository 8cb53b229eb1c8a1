// SPDX-License-Identifier: GPL-2.0
/* Values that are to be the very ones of the source: for tests/kernel/test_exact_values.py. */
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/string.h>

enum colour { RED, GREEN, BLUE = 7 };
struct flags {
	unsigned int on:1, level:3, rest:28;
	int tilt:4, slope:6;
	bool no:1, yes:1;
	enum colour paint:4;
	u64 wide:40;
	struct { unsigned int low:2, high:6; };
	int whole;
};
#define FLAGS { .on = 1, .level = 5, .rest = 77, .tilt = -3, .slope = -9, .yes = true, \
	.paint = BLUE, .wide = 0x123456789aULL, .low = 1, .high = 42, .whole = 6 }
struct flags flags = FLAGS, others[3] = { FLAGS, FLAGS, FLAGS }, *pointed = &others[1];
struct { int n; struct flags inner; } nested = { 3, FLAGS };

struct twin { u64 first; s64 second; };
struct twin twin = { 1, -2 };
struct pair { struct twin one, two; } pair;

/* Compared as a whole: those of a name differ where it says. */
int same_a[400], same_b[400], late_a[400], late_b[400];
char text_a[600], text_b[600], tail_a[32] = "text", tail_b[32] = "text\0more";
struct padded { char kind; long number; } padded_a[3], padded_b[3], other_c[3];
struct deep { struct padded inner[2]; struct { int x; int grid[2][300]; }; int three:3; };
struct deep deep_a, deep_b, deep_c;
union either { int number; char bytes[300]; } either_a, either_b;
struct tailed { int n; int rows[]; } *tailed_a, *tailed_b, *tailed_c;

int number = 1;
bool truth;
enum colour colour = GREEN;
void *address;
float fraction = 1.5f;
double precise = 1.5;

DEFINE_PER_CPU(int, exact_count) = 7;
static int offline = 3;
noinline __attribute__((noipa)) int on_cpu(int cpu) { return cpu + 1; }

static int set_cpu(const char *text, const struct kernel_param *kp)
{
	int cpu, error = kstrtoint(text, 0, &cpu);

	if (!error)
		pr_info("exact: on_cpu(%d) gives %d, %d\n", cpu, on_cpu(cpu), READ_ONCE(offline));
	return error;
}
static const struct kernel_param_ops ops = { .set = set_cpu };
module_param_cb(cpu, &ops, NULL, 0200);

static int __init exact_init(void)
{
	int i;

	for (i = 0; i < 400; i++)
		same_a[i] = same_b[i] = late_a[i] = late_b[i] = i;
	late_b[300] = -1;
	memset(text_a, 'x', 590);
	memset(text_b, 'x', 590);
	text_b[580] = 'y';
	memset(padded_a, 0x11, sizeof(padded_a));
	memset(padded_b, 0x22, sizeof(padded_b));
	memset(&deep_a, 0x11, sizeof(deep_a));
	memset(&deep_b, 0x22, sizeof(deep_b));
	for (i = 0; i < 3; i++) {
		padded_a[i].kind = padded_b[i].kind = other_c[i].kind = i;
		padded_a[i].number = padded_b[i].number = other_c[i].number = 10 * i;
	}
	other_c[2].number = 21;
	memcpy(deep_a.inner, padded_a, sizeof(deep_a.inner));
	memcpy(deep_b.inner, padded_b, sizeof(deep_b.inner));
	deep_a.x = deep_b.x = 5;
	memset(deep_b.grid, 0x11, sizeof(deep_b.grid));
	deep_a.three = deep_b.three = 2;
	deep_c = deep_a;
	deep_c.grid[1][299] = 4;
	either_b.bytes[299] = 1;
	tailed_a = kzalloc(64, GFP_KERNEL);
	tailed_b = kzalloc(64, GFP_KERNEL);
	tailed_c = kzalloc(64, GFP_KERNEL);
	if (!tailed_a || !tailed_b || !tailed_c)
		return -ENOMEM;
	tailed_c->n = 1;
	return 0;
}
static void __exit exact_exit(void)
{
	kfree(tailed_a);
	kfree(tailed_b);
	kfree(tailed_c);
}
module_init(exact_init);
module_exit(exact_exit);
MODULE_LICENSE("GPL");
