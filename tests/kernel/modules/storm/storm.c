// SPDX-License-Identifier: GPL-2.0
/* The driver of a device (QEMU's edu) whose interrupt it never acknowledges, and so comes again as
 * soon as its handler has returned. */
#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/pci.h>

static DECLARE_COMPLETION(completion);
static void __iomem *registers;
static bool cares;
static int calls;

static irqreturn_t deaf_handler(int irq, void *unused)
{
	calls++;
	return cares ? IRQ_HANDLED : IRQ_NONE;
}

static int set_raise(const char *text, const struct kernel_param *unused)
{
	cares = text[0] == 'd';
	writel(1, registers + 0x60); /* docs/specs/edu.txt of QEMU: raises an interrupt */
	wait_for_completion(&completion);
	return 0;
}

static const struct kernel_param_ops ops = { .set = set_raise };
module_param_cb(raise, &ops, NULL, 0200);

static int __init storm_init(void)
{
	struct pci_dev *device = pci_get_device(0x1234, 0x11e8, NULL); /* its ids there */

	if (!device || pci_enable_device(device))
		return -ENODEV;
	registers = pci_iomap(device, 0, 0);
	if (!registers || request_irq(device->irq, deaf_handler, IRQF_SHARED, "storm", &calls))
		return -EBUSY;
	return 0;
}
module_init(storm_init);

MODULE_LICENSE("GPL");
