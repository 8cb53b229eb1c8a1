// SPDX-License-Identifier: MIT
/*
 * /dev/keyhole: a window of 64 readable bytes, followed by data that nobody may read.
 *
 * It has two bugs, which test_drivers.py finds: a read that goes one byte too far, and an error
 * path in its init that deregisters a device that was not registered.
 */
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define KEYHOLE_SIZE 64

#ifdef KEYHOLE_FIXED
#define KEYHOLE_END KEYHOLE_SIZE
#else
#define KEYHOLE_END (KEYHOLE_SIZE + 1)
#endif

struct keyhole {
	char window[KEYHOLE_SIZE];
	char secret[16];
};

static struct keyhole *keyhole;
static unsigned int *keyhole_journal; /* how often each byte was read */

static noinline int keyhole_copy(char __user *to, const char *from, size_t count)
{
	return copy_to_user(to, from, count) ? -EFAULT : 0;
}

static ssize_t keyhole_read(struct file *file, char __user *to, size_t count, loff_t *offset)
{
	if (*offset >= KEYHOLE_END)
		return 0;
	count = min_t(size_t, count, KEYHOLE_END - *offset);
	if (keyhole_copy(to, keyhole->window + *offset, count))
		return -EFAULT;
	if (*offset < KEYHOLE_SIZE)
		keyhole_journal[*offset]++;
	*offset += count;
	return count;
}

static const struct file_operations keyhole_operations = {
	.owner = THIS_MODULE,
	.read = keyhole_read,
	.llseek = default_llseek,
};

static struct miscdevice keyhole_device = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "keyhole",
	.fops = &keyhole_operations,
};

static int __init keyhole_init(void)
{
	int error = -ENOMEM;

	keyhole = kzalloc(sizeof(*keyhole), GFP_KERNEL);
	if (!keyhole)
		return error;
	memset(keyhole->window, '.', sizeof(keyhole->window));
	strscpy(keyhole->secret, "SECRET", sizeof(keyhole->secret));
	keyhole_journal = kcalloc(KEYHOLE_SIZE, sizeof(*keyhole_journal), GFP_KERNEL);
	if (!keyhole_journal)
		goto free_keyhole;
	error = misc_register(&keyhole_device);
	if (error)
#ifdef KEYHOLE_FIXED
		goto free_journal;
#else
		goto deregister;
#endif
	return 0;

#ifndef KEYHOLE_FIXED
deregister:
	misc_deregister(&keyhole_device);
#endif
#ifdef KEYHOLE_FIXED
free_journal:
#endif
	kfree(keyhole_journal);
free_keyhole:
	kfree(keyhole);
	return error;
}

static void __exit keyhole_exit(void)
{
	misc_deregister(&keyhole_device);
	kfree(keyhole_journal);
	kfree(keyhole);
}

module_init(keyhole_init);
module_exit(keyhole_exit);
MODULE_DESCRIPTION("A character device with two bugs");
MODULE_LICENSE("Dual MIT/GPL");
