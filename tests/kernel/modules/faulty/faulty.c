// SPDX-License-Identifier: GPL-2.0
/* A driver of two devices, with one mistake at a time. */
#include <linux/bug.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/radix-tree.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <asm/desc.h>

enum mistake {
	NONE,
	DEVICE_STAYS,
	REFERENCE_STAYS,
	CRASH,
	WARNING,
	LOCK_STAYS,
	IGNORED,
	WARNING_IN_INIT,
	FAILING_INIT,
	TIMER_STAYS,
	RESET,
	UNMADE,
};

static int mistake;
module_param(mistake, int, 0644);

static DEFINE_MUTEX(lock);

static void faulty_tick(struct timer_list *unused);
static DEFINE_TIMER(faulty_timer, faulty_tick);
static void faulty_tick(struct timer_list *unused)
{
	mod_timer(&faulty_timer, jiffies + HZ / 10);
}

static RADIX_TREE(faulty_tree, GFP_KERNEL);
static void *faulty_made[2];

static noinline void faulty_crash(int *p)
{
	*(volatile int *)p = 1; /* crash */
}

static noinline void faulty_reset(void)
{
	struct desc_ptr none = { };

	load_idt(&none);
	asm volatile("ud2"); /* a triple fault */
}

/* Where it comes from, its callers know. */
static noinline void *faulty_find(int n)
{
	return radix_tree_lookup(&faulty_tree, n);
}

static noinline void *faulty_make(int n)
{
	return *(void *volatile *)&faulty_made[n];
}

static noinline int faulty_take(void)
{
	void *p;

	if (mistake == UNMADE)
		return faulty_find(0) ? 0 : PTR_ERR_OR_ZERO(faulty_make(1));
	mutex_lock(&lock); /* hang */
	__module_get(THIS_MODULE);
	p = kmemdup("text", 5, GFP_KERNEL);
	if (!p) {
		if (mistake == RESET)
			faulty_reset();
		if (mistake != REFERENCE_STAYS)
			module_put(THIS_MODULE);
		if (mistake != LOCK_STAYS)
			mutex_unlock(&lock);
		return -ENOMEM;
	}
	kfree(p);
	module_put(THIS_MODULE);
	mutex_unlock(&lock);
	return 0;
}

static int faulty_open(struct inode *inode, struct file *file)
{
	return faulty_take();
}

static const struct file_operations fops = { .owner = THIS_MODULE, .open = faulty_open };
static struct miscdevice first = { .minor = MISC_DYNAMIC_MINOR, .name = "faulty1", .fops = &fops };
static struct miscdevice second = { .minor = MISC_DYNAMIC_MINOR, .name = "faulty2", .fops = &fops };

static int __init faulty_init(void)
{
	int error;

	WARN_ON(mistake == WARNING_IN_INIT || mistake == FAILING_INIT); /* in init */
	if (mistake == FAILING_INIT)
		return -ENODEV;
	if (mistake == TIMER_STAYS)
		mod_timer(&faulty_timer, jiffies + HZ / 10);
	error = misc_register(&first); /* the first */
	if (error && mistake == CRASH)
		faulty_crash(NULL);
	if (error && mistake == IGNORED)
		return 0;
	if (error)
		return error;
	error = misc_register(&second);
	WARN(error && mistake == WARNING, "faulty: refused\n"); /* warning */
	if (error && mistake != DEVICE_STAYS)
		misc_deregister(&first);
	return error;
}

static void __exit faulty_exit(void)
{
	WARN_ON(mistake == WARNING); /* in exit */
	misc_deregister(&second);
	misc_deregister(&first);
}

module_init(faulty_init);
module_exit(faulty_exit);
MODULE_DESCRIPTION("A driver with mistakes");
MODULE_LICENSE("GPL");
