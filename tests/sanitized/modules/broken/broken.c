// SPDX-License-Identifier: MIT
/*
 * /proc/broken: each word that is written to it is a bug that the kernel has a detector for. The
 * line on which the detector is to say that the trouble is carries a comment, HERE and the word.
 */
#include <linux/delay.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

static DEFINE_MUTEX(broken_first);
static DEFINE_MUTEX(broken_second);
static DEFINE_SPINLOCK(broken_lock);
static refcount_t broken_count = REFCOUNT_INIT(0);
static int broken_table[8];
static int broken_zero; /* what gcc must not know */
static int *broken_pointer;

static noinline void broken_freed(void)
{
	int *object = kmalloc(100, GFP_KERNEL);

	kfree(object);
	WRITE_ONCE(object[2], 7); /* HERE freed */
}

static noinline void broken_bounds(void)
{
	char *object = kmalloc(123, GFP_KERNEL);

	WRITE_ONCE(object[123 + broken_zero], 'x'); /* HERE bounds */
	kfree(object);
}

static noinline void broken_global(void)
{
	int *table = broken_table;

	OPTIMIZER_HIDE_VAR(table);
	WRITE_ONCE(broken_zero, READ_ONCE(table[9])); /* HERE global */
}

static noinline void broken_stack(void)
{
	char buffer[20];
	char *at = buffer;

	OPTIMIZER_HIDE_VAR(at);
	WRITE_ONCE(at[21], 'x'); /* HERE stack */
}

static noinline void broken_vmalloc(void)
{
	char *object = vmalloc(PAGE_SIZE - 100);

	WRITE_ONCE(object[PAGE_SIZE - 50], 'x'); /* HERE vmalloc */
	vfree(object);
}

static noinline void broken_twice(void)
{
	char *object = kmalloc(64, GFP_KERNEL);

	kfree(object);
	OPTIMIZER_HIDE_VAR(object);
	kfree(object); /* HERE twice */
	barrier(); /* A tail call would not be in the trace. */
}

static noinline int broken_index(void)
{
	volatile int index = 8;
	static int table[8];

	return table[index & 15] + broken_zero; /* HERE index */
}

static noinline int broken_shift(void)
{
	volatile int by = 40;

	return 1 << by; /* HERE shift */
}

static noinline void broken_order(void)
{
	mutex_lock(&broken_first);
	mutex_lock(&broken_second);
	mutex_unlock(&broken_second);
	mutex_unlock(&broken_first);
	mutex_lock(&broken_second);
	mutex_lock(&broken_first); /* HERE order */
	mutex_unlock(&broken_first);
	mutex_unlock(&broken_second);
}

static void broken_tick(struct timer_list *timer)
{
	spin_lock(&broken_lock);
	spin_unlock(&broken_lock);
}

static DEFINE_TIMER(broken_timer, broken_tick);

static noinline void broken_irq(void)
{
	mod_timer(&broken_timer, jiffies + 1);
	msleep(50);
	spin_lock(&broken_lock); /* HERE irq */
	spin_unlock(&broken_lock);
}

static noinline void broken_unlock(void)
{
	mutex_unlock(&broken_first); /* HERE unlock */
	barrier();
}

static noinline int broken_rcu(void)
{
	int __rcu *pointer = (int __rcu *)broken_pointer;

	return rcu_dereference(pointer) != NULL; /* HERE rcu */
}

static noinline void broken_sleep(void)
{
	spin_lock(&broken_lock);
	might_sleep(); /* HERE sleep */
	spin_unlock(&broken_lock);
}

static noinline void broken_schedule(void)
{
	preempt_disable();
	schedule_timeout_uninterruptible(1); /* HERE schedule */
	barrier();
	/* No preempt_enable(): the kernel has reset the count (schedule_debug). */
}

static noinline void broken_spin(unsigned int seconds)
{
	unsigned long end = jiffies + seconds * HZ;

	preempt_disable();
	for (; time_before(jiffies, end); cpu_relax()) /* HERE spin */
		;
	preempt_enable();
}

/* On a CPU that passes no quiescent state, while a grace period waits for it. */
static noinline void broken_stall(void)
{
	start_poll_synchronize_rcu();
	broken_spin(11); /* The time-out, and 5 s with CONFIG_PROVE_RCU (RCU_STALL_DELAY_DELTA) */
}

/* It does not sleep, so that no other worker of its pool is woken for what waits. */
static void broken_job(struct work_struct *work)
{
	unsigned long end = jiffies + 5 * HZ;

	while (time_before(jiffies, end))
		cond_resched();
}

static void broken_late(struct work_struct *work)
{
}

static DECLARE_WORK(broken_work, broken_job);
static DECLARE_WORK(broken_waiting, broken_late);

static noinline void broken_pool(void)
{
	int cpu = raw_smp_processor_id();

	schedule_work_on(cpu, &broken_work);
	schedule_work_on(cpu, &broken_waiting);
	flush_work(&broken_waiting);
}

static noinline void broken_hang(void)
{
	mutex_lock(&broken_first);
	set_current_state(TASK_UNINTERRUPTIBLE);
	schedule_timeout(6 * HZ); /* HERE hang */
	mutex_unlock(&broken_first);
}

static noinline void broken_leak(void)
{
	char *lost = kmalloc(333, GFP_KERNEL); /* HERE leak */

	OPTIMIZER_HIDE_VAR(lost);
	memset(lost, 'l', 333);
}

static noinline void broken_refcount(void)
{
	refcount_inc(&broken_count); /* HERE refcount */
	barrier();
}

static noinline void broken_list(void)
{
	LIST_HEAD(head);
	struct list_head entry, other;

	list_add(&entry, &head);
	entry.prev = &other;
	INIT_LIST_HEAD(&other);
	list_add(&other, &head); /* HERE list */
}

static ssize_t broken_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	char word[16] = "";

	if (size >= sizeof(word) || copy_from_user(word, from, size))
		return -EFAULT;
	if (sysfs_streq(word, "freed"))
		broken_freed();
	else if (sysfs_streq(word, "bounds"))
		broken_bounds();
	else if (sysfs_streq(word, "global"))
		broken_global();
	else if (sysfs_streq(word, "stack"))
		broken_stack();
	else if (sysfs_streq(word, "vmalloc"))
		broken_vmalloc();
	else if (sysfs_streq(word, "twice"))
		broken_twice();
	else if (sysfs_streq(word, "index"))
		broken_table[0] = broken_index();
	else if (sysfs_streq(word, "shift"))
		broken_table[0] = broken_shift();
	else if (sysfs_streq(word, "order"))
		broken_order();
	else if (sysfs_streq(word, "irq"))
		broken_irq();
	else if (sysfs_streq(word, "unlock"))
		broken_unlock();
	else if (sysfs_streq(word, "rcu"))
		broken_table[0] = broken_rcu();
	else if (sysfs_streq(word, "sleep"))
		broken_sleep();
	else if (sysfs_streq(word, "schedule"))
		broken_schedule();
	else if (sysfs_streq(word, "stall"))
		broken_stall();
	else if (sysfs_streq(word, "lockup"))
		broken_spin(5);
	else if (sysfs_streq(word, "work"))
		broken_pool();
	else if (sysfs_streq(word, "hang"))
		broken_hang();
	else if (sysfs_streq(word, "leak"))
		broken_leak();
	else if (sysfs_streq(word, "refcount"))
		broken_refcount();
	else if (sysfs_streq(word, "list"))
		broken_list();
	else
		return -EINVAL;
	return size;
}

static const struct proc_ops broken_ops = { .proc_write = broken_write };

static int __init broken_init(void)
{
	return proc_create("broken", 0600, NULL, &broken_ops) ? 0 : -ENOMEM;
}

static void __exit broken_exit(void)
{
	del_timer_sync(&broken_timer);
	remove_proc_entry("broken", NULL);
}

module_init(broken_init);
module_exit(broken_exit);
MODULE_DESCRIPTION("A bug for each of the kernel's detectors");
MODULE_LICENSE("Dual MIT/GPL");
