// SPDX-License-Identifier: GPL-2.0
/* What stops a kernel, by a word in debugfs: echo BUG|EXCEPTION|INT3 > /sys/kernel/debug/provoke */
#include <linux/debugfs.h>
#include <linux/kgdb.h>
#include <linux/module.h>
#include <linux/uaccess.h>

static struct dentry *file;

static noinline void provoke_bug(void)
{
	BUG();
}

static noinline void provoke_exception(void)
{
	*(volatile int *)8 = 1;
}

static ssize_t provoke_write(struct file *f, const char __user *buf, size_t size, loff_t *pos)
{
	char word[16] = {};

	if (size >= sizeof(word) || copy_from_user(word, buf, size))
		return -EINVAL;
	if (!strncmp(word, "BUG", 3))
		provoke_bug();
	else if (!strncmp(word, "EXCEPTION", 9))
		provoke_exception();
	else if (!strncmp(word, "INT3", 4))
		kgdb_breakpoint();
	return size;
}

static const struct file_operations operations = { .owner = THIS_MODULE, .write = provoke_write };

static int __init provoke_init(void)
{
	file = debugfs_create_file("provoke", 0200, NULL, NULL, &operations);
	return 0;
}

static void __exit provoke_exit(void)
{
	debugfs_remove(file);
}

module_init(provoke_init);
module_exit(provoke_exit);
MODULE_LICENSE("GPL");
