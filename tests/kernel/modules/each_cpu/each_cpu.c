// SPDX-License-Identifier: GPL-2.0
/* A thread on each CPU that calls functions; the numbers of calls are counted here, too. */
#include <linux/completion.h>
#include <linux/debugfs.h>
#include <linux/kthread.h>
#include <linux/module.h>

static atomic_t calls = ATOMIC_INIT(0);
static atomic_t zeros = ATOMIC_INIT(0);
static int rounds = 40;
static struct completion done[NR_CPUS];
static struct dentry *file;

/* Begins with `lock incl calls(%rip)`. */
static noinline int counted(int i)
{
	atomic_inc(&calls);
	return i + 1;
}

/* Begins with `imul`, by registers. */
static noinline int product(int a, int b)
{
	barrier();
	return a * b;
}

static int plain, beside;

static noinline int read_plain(void)
{
	return READ_ONCE(plain);
}

static noinline void write_plain(int i)
{
	WRITE_ONCE(plain, i);
}

/* On the same page. */
static noinline void access_beside(int i)
{
	WRITE_ONCE(beside, READ_ONCE(beside) + i);
}

static noinline void end(void)
{
	barrier();
}

static int call(void *arg)
{
	long cpu = (long)arg;
	int i;

	for (i = 0; i < rounds; i++) {
		if (counted(i) == 0)
			atomic_inc(&zeros);
		if (product(i, cpu) < 0)
			atomic_inc(&zeros);
		access_beside(read_plain());
		write_plain(2 * i + cpu + 1);
		access_beside(i);
	}
	complete(&done[cpu]);
	return 0;
}

static ssize_t each_cpu_write(struct file *file, const char __user *buf, size_t size, loff_t *pos)
{
	int cpu;

	for_each_online_cpu(cpu) {
		struct task_struct *task = kthread_create(call, (void *)(long)cpu, "call/%d", cpu);

		if (IS_ERR(task))
			return PTR_ERR(task);
		init_completion(&done[cpu]);
		kthread_bind(task, cpu);
		wake_up_process(task);
	}
	for_each_online_cpu(cpu)
		wait_for_completion(&done[cpu]);
	end();
	return size;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.write = each_cpu_write,
};

static int __init each_cpu_init(void)
{
	file = debugfs_create_file("each_cpu", 0200, NULL, NULL, &fops);
	return 0;
}

static void __exit each_cpu_exit(void)
{
	debugfs_remove(file);
}

module_init(each_cpu_init);
module_exit(each_cpu_exit);
MODULE_LICENSE("GPL");
