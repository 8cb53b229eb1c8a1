// SPDX-License-Identifier: GPL-2.0
/* What C passes, holds and calls back: for tests/kernel/test_forms.py. */
#include "forms.h"
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/irq_work.h>
#include <linux/kthread.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/version.h>
#include <linux/workqueue.h>

extern int other_step;
static int secret = 11;
static noinline int of_both(int x) { secret += other_step; return x + secret; }

/* Passed and returned by value. */
struct p3 { u8 a; u16 b; } __packed; /* in memory: b is not aligned */
struct q3 { u16 a; u8 b; } __packed; /* in a register */
struct a3 { u8 a[3]; };
struct none { };
union word { u32 w; u8 b[4]; s16 h[2]; };
union two { u64 q[2]; struct { u32 lo; u64 hi; } s; };
struct wide { __int128 v; };
enum mode { M_OFF, M_ON, M_AUTO = 5 };
enum tiny { T_NEG = -2, T_POS = 3 } __packed;
enum huge { H_BIG = 0x123456789aULL, H_ONE = 1 };
struct bits { bool on:1; enum mode m:3; s8 delta:4; u64 wide:40; };

struct anon { int head; union { struct { int x; union { u8 y; u16 z; }; }; long all; }; struct { int tail; } named; };
struct flex { int n; struct pair items[]; };
struct box {
	struct box *next;
	const char *name;
	char tag[8];
	char rows[3][6];
	int grid[2][3];
	struct bits bits;
	struct anon anon;
	long (*go)(struct box *, int);
	void *bad;
	unsigned __int128 huge;
	_Bool truth;
	enum tiny tiny;
	enum huge big;
	struct flex *flex;
	const struct pair *pairs;
	u8 raw[4];
	struct { struct { int deep; } in[2]; } out[2];
};
struct zero { int n; int none[0]; int after; } zero = { 1, { }, 3 };

static noinline long twice(struct box *b, int n) { barrier(); return 2 * n; }
static noinline long thrice(struct box *b, int n) { barrier(); return 3 * n; }
long (*table[2])(struct box *, int) = { twice, thrice };
struct pair pairs[4] = { { 1, 2 }, { 3, 4 }, { -5, 6 }, { 7, -8 } };
static struct box boxes[2] = { {
	&boxes[1], "first", "tag12345", { "one", "two", "three" }, { { 1, 2, 3 }, { 4, 5, -6 } },
	{ true, M_AUTO, -3, 0x1234567890ULL }, { 1, { { 2, { 0x33 } } }, { 4 } }, twice,
	(void *)(long)-EIO, ((unsigned __int128)5 << 64) + 6, true, T_NEG, H_BIG, NULL, pairs,
	{ 1, 2, 254, 255 }, { { { { 10 }, { 11 } } }, { { { 12 }, { 13 } } } },
} };

noinline long take_p3(struct p3 s, int n) { barrier(); return s.a + s.b + n; }
noinline long take_q3(struct q3 s, int n) { barrier(); return s.a + s.b + n; }
noinline long take_a3(struct a3 s, int n) { barrier(); return s.a[2] + n; }
noinline long take_none(struct none s, int n) { barrier(); return n; }
noinline long take_word(union word u, int n) { barrier(); return u.w + n; }
noinline long take_two(union two u, int n) { barrier(); return u.q[1] + n; }
noinline long take_wide(struct wide s, int n) { barrier(); return (long)s.v + n; }
noinline long take_bits(int n, struct bits s, bool last) { barrier(); return s.delta + n + last; }
noinline long take_small(s8 a, u8 b, s16 c, u16 d, bool e, char f, s8 g, u8 h, s16 i, bool j, enum tiny k, enum mode l)
{
	barrier();
	return a + b + c + d + e + f + g + h + i + j + k + l;
}
noinline long take_enums(enum mode m, enum tiny t, enum huge h) { barrier(); return m + t + h; }
noinline long take_box(struct box *b, int n) { barrier(); return b ? b->anon.x + n : -1; }
noinline long take_array(int v[4], int (*m)[3], char **names, const struct pair *const *pp)
{
	barrier();
	return v[0] + m[1][2] + names[1][0] + (*pp)->a;
}
noinline long take_call(long (*call)(struct box *, int), struct box *b, int n) { barrier(); return call(b, n); }
noinline __printf(1, 2) int take_any(const char *format, ...)
{
	char text[64];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	return n;
}

noinline struct p3 give_p3(int n) { struct p3 s = { n, n + 1 }; barrier(); return s; }
noinline struct q3 give_q3(int n) { struct q3 s = { n, n + 1 }; barrier(); return s; }
noinline struct a3 give_a3(int n) { struct a3 s = { { n, n + 1, n + 2 } }; barrier(); return s; }
noinline union word give_word(int n) { union word u = { .w = n }; barrier(); return u; }
noinline union two give_two(int n) { union two u = { .q = { n, n + 1 } }; barrier(); return u; }
noinline struct bits give_bits(int n) { struct bits s = { true, M_ON, -n, 0xffffffffffULL }; barrier(); return s; }
noinline struct box give_box(int n) { struct box b = boxes[0]; b.anon.head = n; barrier(); return b; }
noinline enum tiny give_tiny(int n) { barrier(); return n ? T_NEG : T_POS; }
noinline enum huge give_huge(int n) { barrier(); return n ? H_BIG : H_ONE; }
noinline bool give_bool(int n) { barrier(); return n > 2; }
noinline s8 give_s8(int n) { barrier(); return -n; }
noinline u16 give_u16(int n) { barrier(); return 65535 - n; }
noinline void *give_error(int n) { barrier(); return n ? ERR_PTR(-ENODEV) : NULL; }

noinline long fib(int n) { barrier(); return n < 2 ? n : fib(n - 1) + fib(n - 2); }
static noinline bool is_odd(int n);
static noinline bool is_even(int n) { barrier(); return n ? is_odd(n - 1) : true; }
static noinline bool is_odd(int n) { barrier(); return n ? is_even(n - 1) : false; }

DEFINE_PER_CPU(struct pair, pair_of_cpu);
static struct pair __percpu *allocated;
noinline void set_of_cpu(struct pair __percpu *p)
{
	this_cpu_write(pair_of_cpu.b, 500 + smp_processor_id());
	this_cpu_ptr(p)->a = 600 + smp_processor_id();
	barrier();
}
noinline void see_of_cpu(struct pair __percpu *p) { barrier(); }

static DECLARE_COMPLETION(done);
static atomic_t left;
noinline long sleeps(long id) { msleep(10 * (8 - id)); return 1000 + id; }
static int thread(void *id)
{
	sleeps((long)id);
	if (atomic_dec_and_test(&left))
		complete(&done);
	return 0;
}

static struct late {
	struct rcu_head rcu;
	struct timer_list timer;
	struct work_struct work;
	struct hrtimer hrtimer;
	struct irq_work irq_work;
	int n;
} late = { .n = 41 };
static noinline void on_rcu(struct rcu_head *head) { barrier(); complete(&done); }
static noinline void on_timer(struct timer_list *timer) { barrier(); complete(&done); }
static noinline void on_work(struct work_struct *work) { barrier(); complete(&done); }
static noinline enum hrtimer_restart on_hrtimer(struct hrtimer *timer) { barrier(); complete(&done); return HRTIMER_NORESTART; }
static noinline void on_irq_work(struct irq_work *work) { barrier(); complete(&done); }
static noinline void on_ipi(void *info) { barrier(); WRITE_ONCE(*(int *)info, smp_processor_id()); }
static int ipi_cpu;

static long by_value(void)
{
	return take_p3((struct p3){ 1, 0x203 }, 4) + take_q3((struct q3){ 0x102, 3 }, 4) +
	       take_a3((struct a3){ { 1, 2, 3 } }, 4) + take_none((struct none){ }, 5) +
	       take_word((union word){ 0x80ff0201 }, 4) + take_two((union two){ { 1, ~0ULL } }, 4) +
	       take_wide((struct wide){ ((__int128)-1 << 64) + 9 }, 4) +
	       take_bits(4, (struct bits){ false, M_ON, -3, 1ULL << 39 }, true) +
	       take_small(-1, 255, -300, 60000, true, 'x', -7, 200, -2, true, T_NEG, M_AUTO) +
	       take_enums(M_AUTO, T_NEG, H_BIG);
}

static long by_pointer(void)
{
	char *names[] = { "alpha", "beta" };
	int v[4] = { 9, 8, 7, 6 };
	const struct pair *pp = &pairs[2];

	return take_box(boxes, 3) + take_array(v, boxes[0].grid, names, &pp) +
	       take_call(table[1], boxes, 5) + take_call(boxes[0].go, boxes, 6) +
	       take_any("%d %s\n", 42, "text") + take_any("none");
}

static long by_return(void)
{
	return give_p3(3).b + give_q3(11).b + give_a3(4).a[2] + give_word(-5).w + give_two(6).q[1] +
	       give_bits(4).delta + give_box(19).anon.head + give_tiny(1) + give_huge(1) +
	       give_bool(3) + give_s8(5) + give_u16(6) + PTR_ERR(give_error(1));
}

static void wild(void)
{
	take_box(NULL, 1);
	take_box((void *)0xdeadbeef00000000, 2);
	take_box((void *)8, 3);
	take_box(ERR_PTR(-ENOMEM), 4);
}

static int in_threads(void)
{
	struct task_struct *task;
	long id;

	atomic_set(&left, 8);
	reinit_completion(&done);
	for (id = 0; id < 8; id++) {
		task = kthread_run(thread, (void *)id, "forms%ld", id);
		if (IS_ERR(task))
			return PTR_ERR(task);
	}
	wait_for_completion(&done);
	msleep(20);
	return 0;
}

static void called_back(void)
{
	reinit_completion(&done);
	call_rcu(&late.rcu, on_rcu);
	wait_for_completion(&done);
	timer_setup(&late.timer, on_timer, 0);
	mod_timer(&late.timer, jiffies + 1);
	wait_for_completion(&done);
	INIT_WORK(&late.work, on_work);
	schedule_work(&late.work);
	wait_for_completion(&done);
	flush_work(&late.work);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
	hrtimer_init(&late.hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	late.hrtimer.function = on_hrtimer;
#else
	hrtimer_setup(&late.hrtimer, on_hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
#endif
	hrtimer_start(&late.hrtimer, 1000000, HRTIMER_MODE_REL);
	wait_for_completion(&done);
	init_irq_work(&late.irq_work, on_irq_work);
	irq_work_queue(&late.irq_work);
	wait_for_completion(&done);
}

static noinline long step(int n)
{
	struct box *heap;

	switch (n) {
	case 1: return by_value();
	case 2: return by_pointer();
	case 3: return by_return();
	case 4: wild(); return 0;
	case 5: return fib(7);
	case 6: return is_even(6);
	case 7: return of_both(5) + in_other(&pairs[1], 3) + of_header(&pairs[0], 6);
	case 8: preempt_disable(); set_of_cpu(allocated); see_of_cpu(allocated); preempt_enable(); return 0;
	case 9: return in_threads();
	case 10: called_back(); return 0;
	case 11: on_each_cpu(on_ipi, &ipi_cpu, 1); return 0;
	case 12:
		heap = kzalloc(sizeof(*heap), GFP_KERNEL);
		if (heap)
			heap->flex = kzalloc(struct_size(heap->flex, items, 3), GFP_KERNEL);
		if (!heap || !heap->flex)
			return -ENOMEM;
		heap->flex->n = 3;
		heap->flex->items[2].b = 33;
		take_box(heap, 3);
		kfree(heap->flex);
		kfree(heap);
		return 0;
	}
	return -EINVAL;
}

static int set_step(const char *text, const struct kernel_param *kp)
{
	int n, error = kstrtoint(text, 0, &n);

	if (!error)
		pr_info("forms: step %d gives %ld\n", n, step(n));
	return error;
}
static const struct kernel_param_ops ops = { .set = set_step };
module_param_cb(step, &ops, NULL, 0200);

static int __init forms_init(void)
{
	allocated = alloc_percpu(struct pair);
	return allocated ? 0 : -ENOMEM;
}
static void __exit forms_exit(void)
{
	rcu_barrier();
	free_percpu(allocated);
}
module_init(forms_init);
module_exit(forms_exit);
MODULE_DESCRIPTION("What C passes, holds and calls back");
MODULE_LICENSE("GPL");
