// SPDX-License-Identifier: GPL-2.0
/* A task that goes from CPU to CPU, of itself or because another task moves it. */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/sched.h>
#include <linux/uaccess.h>

static long hops;
static struct dentry *file;

static noinline void hop_to(int cpu)
{
	set_cpus_allowed_ptr(current, cpumask_of(cpu));
	hops++;
	msleep(1);
	barrier();
}

static noinline int hop_around(int count)
{
	int hop;

	for (hop = 1; hop <= count; hop++)
		hop_to(hop % 4);
	barrier();
	return count;
}

static noinline int spin(void)
{
	unsigned long end = jiffies + msecs_to_jiffies(1000);

	while (time_before(jiffies, end))
		cond_resched();
	return raw_smp_processor_id();
}

static ssize_t hop_write(struct file *file, const char __user *buf, size_t size, loff_t *pos)
{
	char word;

	if (get_user(word, buf))
		return -EFAULT;
	set_cpus_allowed_ptr(current, cpumask_of(0));
	if (word != 's')
		return hop_around(word - '0') < 0 ? -EINVAL : size;
	set_cpus_allowed_ptr(current, cpu_online_mask);
	return spin() < 0 ? -EINVAL : size;
}

static const struct file_operations fops = {
	.owner = THIS_MODULE,
	.write = hop_write,
};

static int __init hop_init(void)
{
	file = debugfs_create_file("hop", 0600, NULL, NULL, &fops);
	return 0;
}

static void __exit hop_exit(void)
{
	debugfs_remove(file);
}

module_init(hop_init);
module_exit(hop_exit);
MODULE_LICENSE("GPL");
