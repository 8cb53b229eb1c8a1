// SPDX-License-Identifier: MIT
/*
 * /proc/leaky: a driver with two error paths that forget a buffer, unless LEAKY_FIXED: one of its
 * init, and one of what it does when something is written to its file.
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>

struct leaky {
	char *rings[2];
};

static char *leaky_log;
static struct leaky *leaky;

static noinline void *leaky_take(size_t size)
{
	void *taken = kmalloc(size, GFP_KERNEL); /* HERE taken */

	if (taken)
		memset(taken, 'l', size);
	return taken;
}

static noinline int leaky_start(void)
{
	struct leaky *made = leaky_take(sizeof(*made));

	if (!made)
		return -ENOMEM;
	made->rings[0] = leaky_take(400); /* HERE first */
	if (!made->rings[0])
		goto free_made;
	made->rings[1] = leaky_take(500);
	if (!made->rings[1])
		goto free_first;
	leaky = made;
	return 0;

free_first:
#ifdef LEAKY_FIXED
	kfree(made->rings[0]);
#endif
free_made:
	kfree(made);
	return -ENOMEM;
}

static ssize_t leaky_write(struct file *file, const char __user *from, size_t size, loff_t *at)
{
	int error = leaky ? -EBUSY : leaky_start();

	return error ?: size;
}

static const struct proc_ops leaky_ops = { .proc_write = leaky_write };

static int __init leaky_init(void)
{
	leaky_log = leaky_take(100); /* HERE log */
	if (!leaky_log)
		return -ENOMEM;
	if (!proc_create("leaky", 0600, NULL, &leaky_ops)) {
#ifdef LEAKY_FIXED
		kfree(leaky_log);
#endif
		return -ENOMEM;
	}
	return 0;
}

static void __exit leaky_exit(void)
{
	int ring;

	remove_proc_entry("leaky", NULL);
	for (ring = 0; leaky && ring < ARRAY_SIZE(leaky->rings); ring++)
		kfree(leaky->rings[ring]);
	kfree(leaky);
	kfree(leaky_log);
}

module_init(leaky_init);
module_exit(leaky_exit);
MODULE_DESCRIPTION("A driver that forgets a buffer where something fails");
MODULE_LICENSE("Dual MIT/GPL");
