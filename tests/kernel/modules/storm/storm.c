// SPDX-License-Identifier: GPL-2.0
/* The driver of a device (QEMU's edu) whose interrupt it never acknowledges, and so comes again as
 * soon as its handler has returned. */
#include <linux/completion.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/pci.h>

static DECLARE_COMPLETION(completion);
static int calls;

static irqreturn_t deaf_handler(int irq, void *unused)
{
	calls++;
	return IRQ_HANDLED;
}

static irqreturn_t strange_handler(int irq, void *unused)
{
	calls++;
	return IRQ_NONE;
}

static int set_raise(const char *text, const struct kernel_param *unused)
{
	/* docs/specs/edu.txt of QEMU: its ids, and the register that raises an interrupt */
	struct pci_dev *device = pci_get_device(0x1234, 0x11e8, NULL);
	irq_handler_t handler = text[0] == 'd' ? deaf_handler : strange_handler;
	void __iomem *registers;

	if (!device || pci_enable_device(device))
		return -ENODEV;
	registers = pci_iomap(device, 0, 0);
	if (!registers || request_irq(device->irq, handler, IRQF_SHARED, "storm", &calls))
		return -EBUSY;
	writel(1, registers + 0x60);
	wait_for_completion(&completion);
	return 0;
}

static const struct kernel_param_ops ops = { .set = set_raise };
module_param_cb(raise, &ops, NULL, 0200);

MODULE_LICENSE("GPL");
